/* The protocol of PeerServer (npm `peer`): peers with ids of their own, each message names its `dst`. */
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>

#include "dialect.h"
#include "util.h"

/*
 * Ids are new in every run and for every connection: PeerServer keeps messages for an id that has gone and hands
 * them to whoever comes back under it.
 */
static int node_id(const struct conn *client, char *to)
{
    uint32_t node = client->index % (uint32_t)options.nodes;
    to[0] = 'n';
    hex_write((uint8_t *)to + 1, (uint64_t)options.run << 16 | node, 8);
    return 9;
}

static int target(const struct conn *conn, char *to)
{
    char id[32];
    if (conn->role == NODE)
        id[node_id(conn, id)] = 0;
    else
        sprintf(id, "c%04x%05x%05x", options.run, conn->index, conn->generation);
    return sprintf(to, "/peerjs?key=peerjs&id=%s&token=%s&version=1.5.4", id, "t0k3n5ecret");
}

/* Id and token came with the upgrade. */
static int nothing(const struct conn *conn, char *to)
{
    (void)conn, (void)to;
    return 0;
}

static size_t address(const struct conn *client, enum role sender, char *to)
{
    if (sender == CLIENT)
        return (size_t)node_id(client, to);
    memcpy(to, client->session, client->session_length);
    return client->session_length;
}

static int description(const struct conn *client, char *to, enum role sender)
{
    char dst[ADDRESS_MAX];
    size_t dst_length = address(client, sender, dst);
    int length = sprintf(to, "{\"type\":\"%s\",\"dst\":\"%.*s\",\"payload\":{\"sdp\":{\"type\":\"%s\",\"sdp\":\"",
                         sender == CLIENT ? "OFFER" : "ANSWER", (int)dst_length, dst,
                         sender == CLIENT ? "offer" : "answer");
    length += sdp_write(to + length, client->index, sender == CLIENT ? OFFER_LINES : ANSWER_LINES);
    return length + sprintf(to + length, "\"},\"type\":\"media\",\"connectionId\":\"mc_1\"}}");
}

static int offer(const struct conn *client, char *to)
{
    return description(client, to, CLIENT);
}

static int answer(const struct conn *client, char *to)
{
    return description(client, to, NODE);
}

static int heartbeat(char *to)
{
    return sprintf(to, "{\"type\":\"HEARTBEAT\"}");
}

static struct event parse(const uint8_t *text, size_t length)
{
    struct event event = {0};
    size_t type_length;
    const uint8_t *type = text_after(text, length, "\"type\":\"", &type_length);
    if (type == NULL)
        die("a message without a type: %.*s", (int)length, (const char *)text);
    switch (type[0]) {
    case 'C': event.kind = CANDIDATE; break;
    case 'O': event.kind = type_length == 4 ? ACCEPTED : OFFER; break; /* OPEN, OFFER */
    case 'A': event.kind = ANSWER; break;
    case 'L': event.kind = OTHER; break; /* LEAVE: a message met a peer that had gone */
    default: event.kind = REFUSED;       /* ERROR, ID-TAKEN, EXPIRE */
    }
    if (event.kind == OFFER || event.kind == CANDIDATE) {
        event.address = text_after(text, length, "\"src\":\"", &event.address_length);
        marker_read(&event, text, length);
    }
    return event;
}

const struct dialect peerjs_dialect = {
    .name = "peerjs",
    .target = target,
    .hello = nothing,
    .start = nothing,
    .offer = offer,
    .answer = answer,
    .connected = nothing,
    .heartbeat = heartbeat,
    .parse = parse,
    .wrap =
        {
            [CLIENT] = {"{\"type\":\"CANDIDATE\",\"dst\":\"", "\",\"payload\":{\"candidate\":",
                        ",\"type\":\"media\",\"connectionId\":\"mc_1\"}}"},
            [NODE] = {"{\"type\":\"CANDIDATE\",\"dst\":\"", "\",\"payload\":{\"candidate\":",
                      ",\"type\":\"media\",\"connectionId\":\"mc_1\"}}"},
        },
    .address = address,
};
