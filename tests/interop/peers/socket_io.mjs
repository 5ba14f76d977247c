// A Socket.IO server as loadgen expects one: rooms by the events `subscribe` and `publish`.
import { createServer } from "node:http";
import { Server } from "socket.io";

const http = createServer();
const io = new Server(http, { transports: ["websocket"] });
io.on("connection", (socket) => {
  socket.on("subscribe", (room) => {
    socket.join(room);
    socket.emit("subscribed", room);
  });
  socket.on("publish", (room, payload) => io.to(room).emit("publication", room, payload));
});
http.listen(Number(process.argv[2]), "127.0.0.1", () => console.log("ready"));
