// PeerServer (npm `peer`) as its documentation starts it, with room for the benchmark's connections.
import { PeerServer } from "peer";

const options = { port: Number(process.env.PORT), host: "127.0.0.1", path: "/", concurrent_limit: 20_000 };
PeerServer(options, () => console.log("listening"));
