// A topic server on `ws`: what comes in on a path goes to all sockets of that path. The path /echo/… gives
// it back to its sender only.
import { WebSocketServer } from "ws";

const topics = new Map();
const server = new WebSocketServer({ host: "127.0.0.1", port: Number(process.argv[2]) });
server.on("listening", () => console.log("ready"));
server.on("connection", (socket, request) => {
  const path = request.url;
  if (!topics.has(path)) topics.set(path, new Set());
  const members = topics.get(path);
  members.add(socket);
  socket.on("message", (data, isBinary) => {
    const to = path.startsWith("/echo") ? [socket] : members;
    for (const member of to) member.send(data, { binary: isBinary });
  });
  socket.on("close", () => members.delete(socket));
});
