/* The protocol of rtcbridge, which the `ws` relay beside it speaks too: docs/protocol.md, parts 1 and 3. */
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>

#include "dialect.h"
#include "util.h"

#define TYPE(text) (sizeof text - 1), text

static int target(const struct conn *conn, char *to)
{
    return sprintf(to, "%s", conn->role == NODE ? "/node" : "/client");
}

static int hello(const struct conn *conn, char *to)
{
    if (conn->role == CLIENT)
        return sprintf(to, "{\"type\":\"CREDENTIAL\",\"payload\":{\"credential\":\"%s\"}}", options.credential);
    return sprintf(to,
                   "{\"type\":\"REGISTER\",\"payload\":{\"credential\":\"%s\",\"node\":\"%s-%u\","
                   "\"pool\":\"%s\",\"capacity\":%d}}",
                   options.node_credential, options.pool, conn->index, options.pool, options.capacity);
}

static int start(const struct conn *client, char *to)
{
    (void)client;
    return sprintf(to, "{\"type\":\"session_start\"}");
}

static int offer(const struct conn *client, char *to)
{
    int length = sprintf(to, "{\"type\":\"offer\",\"sdp\":\"");
    length += sdp_write(to + length, client->index, OFFER_LINES);
    return length + sprintf(to + length, "\"}");
}

static int answer(const struct conn *client, char *to)
{
    int length = sprintf(to, "{\"type\":\"answer\",\"session\":\"%s\",\"sdp\":\"", client->session);
    length += sdp_write(to + length, client->index, ANSWER_LINES);
    return length + sprintf(to + length, "\"}");
}

static int connected(const struct conn *client, char *to)
{
    return sprintf(to, "{\"type\":\"session_state\",\"session\":\"%s\",\"state\":\"connected\"}", client->session);
}

static int heartbeat(char *to)
{
    return sprintf(to, "{\"type\":\"heartbeat\"}");
}

static enum kind kind_of(const uint8_t *type, size_t length)
{
    static const struct {
        size_t length;
        const char *name;
        enum kind kind;
    } kinds[] = {
        {TYPE("candidate"), CANDIDATE}, {TYPE("offer"), OFFER},         {TYPE("answer"), ANSWER},
        {TYPE("auth_success"), ACCEPTED}, {TYPE("registered"), ACCEPTED}, {TYPE("session_end"), ENDED},
        {TYPE("error"), REFUSED},
    };
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (length == kinds[i].length && memcmp(type, kinds[i].name, length) == 0)
            return kinds[i].kind;
    return OTHER;
}

static struct event parse(const uint8_t *text, size_t length)
{
    struct event event = {0};
    size_t type_length, status_length;
    const uint8_t *type = text_after(text, length, "\"type\":\"", &type_length), *status;
    if (type == NULL)
        die("a message without a type: %.*s", (int)length, (const char *)text);
    event.kind = kind_of(type, type_length);
    if (event.kind == OTHER && type_length == 11 && memcmp(type, "node_status", 11) == 0) {
        status = text_after(text, length, "\"status\":\"", &status_length);
        event.kind = status_length == 7 && memcmp(status, "waiting", 7) == 0 ? ASSIGNED : REFUSED;
    }
    if (event.kind == OFFER || event.kind == CANDIDATE) {
        event.address = text_after(text, length, "\"session\":\"", &event.address_length);
        marker_read(&event, text, length);
    }
    return event;
}

static size_t address(const struct conn *client, enum role sender, char *to)
{
    if (sender == CLIENT)
        return 0;
    memcpy(to, client->session, client->session_length);
    return client->session_length;
}

const struct dialect bridge_dialect = {
    .name = "bridge",
    .assigns = true,
    .authenticates = true,
    .ends = true,
    .target = target,
    .hello = hello,
    .start = start,
    .offer = offer,
    .answer = answer,
    .connected = connected,
    .heartbeat = heartbeat,
    .parse = parse,
    .wrap =
        {
            [CLIENT] = {"{\"type\":\"candidate\",", "\"candidate\":", "}"},
            [NODE] = {"{\"type\":\"candidate\",\"session\":\"", "\",\"candidate\":", "}"},
        },
    .address = address,
};
