/* WebSocket client connections (RFC 6455) on one epoll loop. */
#ifndef CONN_H
#define CONN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum role { CLIENT, NODE };
enum state { CLOSED, CONNECTING, UPGRADING, OPEN, CLOSING };

struct conn {
    int fd;
    enum role role;
    enum state state;
    bool dirty;          /* has output and is in the list of those to flush */
    bool blocked;        /* the socket's buffer is full: wait for EPOLLOUT */
    uint32_t index;      /* among the connections of its role */
    uint32_t generation; /* how often this one has been opened */
    uint8_t *in;         /* bytes of an unfinished frame */
    size_t in_length;
    uint8_t *out;
    size_t out_length, out_capacity;

    /* What the scenarios keep about a client's session. */
    struct conn *node;       /* who serves it; NULL before the node got the offer */
    char session[64];        /* its id at the node; empty where the protocol has none */
    size_t session_length;
    uint64_t sent, received; /* candidates, by this client */
    int at_client, at_node;  /* candidates of this set-up that have arrived */
};

/* What a connection tells its owner. Texts are not terminated. */
struct conn_events {
    void (*upgraded)(struct conn *);
    void (*text)(struct conn *, const uint8_t *text, size_t length);
    void (*closed)(struct conn *); /* after a close that this side began, at the end of the stream */
};

void conn_init(const char *host, int port, int node_port, const struct conn_events *events);

/* Connect and send the upgrade for `target`. Source addresses are spread over 127.0.0.0/8. */
void conn_open(struct conn *conn, const char *target);

/* Space for a text frame of exactly `length` bytes; conn_commit masks and queues it. */
uint8_t *conn_reserve(struct conn *conn, size_t length);
void conn_commit(struct conn *conn, uint8_t *payload, size_t length);
void conn_send(struct conn *conn, const char *text, size_t length);

/* Send Close 1000; the server answers and ends the stream. */
void conn_close(struct conn *conn);

/* One turn: wait at most timeout_ms, dispatch, flush what was queued. Returns the number of sockets served. */
int conn_turn(int timeout_ms);

/* Send what is queued, one write a socket. */
void conn_flush(void);

/* When the bytes that are being dispatched were read, in nanoseconds. */
uint64_t conn_read_time(void);

#endif
