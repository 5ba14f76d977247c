//! Proof of a service's identity: HMAC-SHA256 over the server's challenge.
//!
//! The secret never crosses the wire, and a recorded HELLO is worth nothing on the next connection,
//! because the challenge is random each time. Comparison takes the same time wherever the codes differ.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// The code that HELLO carries: HMAC-SHA256(`secret`, `challenge` ‖ `service` ‖ `key_id`).
pub fn hello_mac(secret: &[u8], challenge: &[u8; 32], service: &str, key_id: &str) -> [u8; 32] {
    keyed(secret, challenge, service, key_id)
        .finalize()
        .into_bytes()
        .into()
}

/// Whether `mac` is [`hello_mac`] of the rest, in constant time.
pub fn hello_mac_is_valid(
    secret: &[u8],
    challenge: &[u8; 32],
    service: &str,
    key_id: &str,
    mac: &[u8; 32],
) -> bool {
    keyed(secret, challenge, service, key_id)
        .verify_slice(mac)
        .is_ok()
}

fn keyed(secret: &[u8], challenge: &[u8; 32], service: &str, key_id: &str) -> Hmac<Sha256> {
    let mut hmac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes keys of any length");
    hmac.update(challenge);
    hmac.update(service.as_bytes());
    hmac.update(key_id.as_bytes());
    hmac
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_secret_challenge_service_and_key_make_the_same_code() {
        let challenge = [7; 32];
        let mac = hello_mac(b"secret", &challenge, "orders", "k1");
        assert!(hello_mac_is_valid(
            b"secret", &challenge, "orders", "k1", &mac
        ));
        assert!(!hello_mac_is_valid(
            b"secreT", &challenge, "orders", "k1", &mac
        ));
        assert!(!hello_mac_is_valid(
            b"secret", &[8; 32], "orders", "k1", &mac
        ));
        assert!(!hello_mac_is_valid(
            b"secret", &challenge, "order", "k1", &mac
        ));
        assert!(!hello_mac_is_valid(
            b"secret", &challenge, "orders", "k2", &mac
        ));
        let mut other = mac;
        other[31] ^= 1;
        assert!(!hello_mac_is_valid(
            b"secret", &challenge, "orders", "k1", &other
        ));
    }
}
