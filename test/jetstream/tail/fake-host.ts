import type { ServerWebSocket } from 'bun';

export interface Connection {
  readonly url: URL;
  readonly socket: ServerWebSocket<{ url: URL }>;
}

/** A Jetstream host that does as it is told: `serve` is called for each connection, `answer` for what is none. */
export const startFakeHost = (behaviour: {
  readonly serve?: (connection: Connection) => void;
  readonly answer?: (url: URL) => Response | undefined;
}) => {
  const connections: Connection[] = [];
  const server = Bun.serve<{ url: URL }>({
    hostname: '127.0.0.1',
    port: 0,
    fetch(request, self) {
      const url = new URL(request.url);
      const answer = behaviour.answer?.(url);
      if (answer !== undefined) return answer;
      return self.upgrade(request, { data: { url } }) ? undefined : new Response('not here', { status: 404 });
    },
    websocket: {
      open(socket) {
        const connection = { url: socket.data.url, socket };
        connections.push(connection);
        behaviour.serve?.(connection);
      },
      message() {},
    },
  });
  return {
    connections,
    port: server.port!,
    host: `ws://127.0.0.1:${server.port}`,
    close: () => server.stop(true),
  };
};
