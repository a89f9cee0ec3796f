/* The two protocols that the generator speaks, behind one table of functions. */
#ifndef DIALECT_H
#define DIALECT_H

#include "conn.h"

enum kind {
    OTHER,     /* nothing that this generator acts on */
    ACCEPTED,  /* authenticated (client) or registered (node) */
    ASSIGNED,  /* the client has been given a node */
    OFFER,
    ANSWER,
    CANDIDATE,
    ENDED,     /* the node is told that a session is over */
    REFUSED,   /* an error: the run is void */
};

struct event {
    enum kind kind;
    const uint8_t *address; /* session id, or the sender's id; NULL where there is none */
    size_t address_length;
    uint32_t client;        /* from the marker in an offer or a candidate */
    uint64_t number;
};

struct dialect {
    const char *name;
    bool assigns;       /* the server chooses the node (session_start); else the client names it */
    bool authenticates; /* a first message carries the credential */
    bool ends;          /* the server tells the node when a client has gone */

    /* Each writes a text to `to` (of TEXT_MAX bytes) and returns its length; 0: nothing to send. */
    int (*target)(const struct conn *conn, char *to);
    int (*hello)(const struct conn *conn, char *to);
    int (*start)(const struct conn *client, char *to);
    int (*offer)(const struct conn *client, char *to);
    int (*answer)(const struct conn *client, char *to);
    int (*connected)(const struct conn *client, char *to);
    int (*heartbeat)(char *to);

    struct event (*parse)(const uint8_t *text, size_t length);

    /* How a candidate is wrapped, for a sender of this role: head, address, tail around the object. */
    struct wrap { const char *head, *middle, *tail; } wrap[2];
    size_t (*address)(const struct conn *client, enum role sender, char *to);
};

enum { TEXT_MAX = 32768, ADDRESS_MAX = 64 };

extern const struct dialect bridge_dialect, peerjs_dialect;

/* Set once by main, from the command line. */
extern struct options {
    const struct dialect *dialect;
    const char *scenario, *host, *credential, *node_credential, *pool;
    int port, node_port, clients, nodes, capacity, window, size, server_pid;
    uint32_t run; /* sets the ids of this run apart */
    double rate, warmup, seconds;
} options;

/* Prepare candidates whose text, as the client sends it, has options.size bytes. */
void candidates_init(void);

/* Queue a candidate of `client`, sent by that client or by its node; `number` comes back in the event. */
void candidate_send(struct conn *client, enum role sender, uint64_t number);

/* The session descriptions, escaped for JSON: an offer of a browser's size, and its answer. */
int sdp_write(char *to, uint32_t client, int lines);
enum { OFFER_LINES = 90, ANSWER_LINES = 50 };

/* Read the marker (client and number) out of an offer or a candidate. */
void marker_read(struct event *event, const uint8_t *text, size_t length);

/* The text behind `key` up to the closing quote; NULL if the key is not there. */
const uint8_t *text_after(const uint8_t *text, size_t length, const char *key, size_t *value_length);

#endif
