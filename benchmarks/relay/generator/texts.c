/* What both protocols carry: candidates of a stated size, session descriptions, and the marker in both. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dialect.h"
#include "util.h"

/*
 * The marker tells whose message it is and which: it stands where a candidate has its foundation (at most 32
 * ICE characters, RFC 8839), and in the origin line of an offer.
 */
#define MARK "loadgen"
enum { MARK_LENGTH = sizeof MARK - 1, CLIENT_DIGITS = 8, NUMBER_DIGITS = 16 };

static struct {
    char *tail; /* everything behind the address */
    size_t tail_length, marker_at;
} ready[2];

void marker_read(struct event *event, const uint8_t *text, size_t length)
{
    const uint8_t *mark = memmem(text, length, MARK, MARK_LENGTH);
    if (mark == NULL || text + length - mark < MARK_LENGTH + CLIENT_DIGITS + NUMBER_DIGITS)
        die("a relayed message came back without its marker");
    event->client = (uint32_t)hex_read(mark + MARK_LENGTH, CLIENT_DIGITS);
    event->number = hex_read(mark + MARK_LENGTH + CLIENT_DIGITS, NUMBER_DIGITS);
    if (event->client >= (uint32_t)options.clients)
        die("a relayed message came back with a damaged marker");
}

const uint8_t *text_after(const uint8_t *text, size_t length, const char *key, size_t *value_length)
{
    size_t key_length = strlen(key);
    const uint8_t *found = memmem(text, length, key, key_length);
    if (found == NULL)
        return NULL;
    found += key_length;
    const uint8_t *end = memchr(found, '"', (size_t)(text + length - found));
    if (end == NULL)
        return NULL;
    *value_length = (size_t)(end - found);
    return found;
}

static void prepare(enum role sender, size_t padding)
{
    const struct wrap *wrap = &options.dialect->wrap[sender];
    char *filler = xrealloc(NULL, padding + 1);
    memset(filler, 'x', padding);
    filler[padding] = 0;
    int length = asprintf(&ready[sender].tail,
                          "%s{\"candidate\":\"candidate:" MARK "%024d 1 udp 2122260223 192.168.1.7 54321 typ host "
                          "ufrag %s\",\"sdpMid\":\"0\",\"sdpMLineIndex\":0}%s",
                          wrap->middle, 0, filler, wrap->tail);
    free(filler);
    ready[sender].tail_length = (size_t)length;
    ready[sender].marker_at = (size_t)(strstr(ready[sender].tail, MARK) - ready[sender].tail) + MARK_LENGTH;
}

void candidates_init(void)
{
    char address[ADDRESS_MAX];
    struct conn example = {.role = CLIENT};
    prepare(CLIENT, 0);
    size_t bare = strlen(options.dialect->wrap[CLIENT].head) +
                  options.dialect->address(&example, CLIENT, address) + ready[CLIENT].tail_length;
    if ((size_t)options.size < bare + 4)
        die("--size: at least %zu", bare + 4);
    prepare(CLIENT, (size_t)options.size - bare);
    prepare(NODE, (size_t)options.size - bare);
}

void candidate_send(struct conn *client, enum role sender, uint64_t number)
{
    const char *head = options.dialect->wrap[sender].head;
    char address[ADDRESS_MAX];
    size_t head_length = strlen(head), address_length = options.dialect->address(client, sender, address);
    size_t length = head_length + address_length + ready[sender].tail_length;
    struct conn *from = sender == CLIENT ? client : client->node;
    uint8_t *payload = conn_reserve(from, length), *at = payload;
    memcpy(at, head, head_length);
    at += head_length;
    memcpy(at, address, address_length);
    at += address_length;
    memcpy(at, ready[sender].tail, ready[sender].tail_length);
    at += ready[sender].marker_at;
    hex_write(at, client->index, CLIENT_DIGITS);
    hex_write(at + CLIENT_DIGITS, number, NUMBER_DIGITS);
    conn_commit(from, payload, length);
}

int sdp_write(char *to, uint32_t client, int lines)
{
    char *at = to;
    at += sprintf(at,
                  "v=0\\r\\no=- " MARK "%08x%016x 2 IN IP4 127.0.0.1\\r\\ns=-\\r\\nt=0 0\\r\\na=group:BUNDLE 0 1\\r\\n"
                  "m=video 9 UDP/TLS/RTP/SAVPF 96 97 98 99 100 101 35 36\\r\\nc=IN IP4 0.0.0.0\\r\\na=ice-ufrag:8aPr\\r\\n"
                  "a=ice-pwd:q0sQ2p1vJm0bT4cO9x3ZyKfW\\r\\na=fingerprint:sha-256 19:E2:1C:3B:4B:9F:81:E6:B8:5C:F4:A5:A8:D8:"
                  "73:04:BB:05:2F:70:9F:04:A9:0E:05:E9:26:33:E8:70:88:A2\\r\\na=setup:actpass\\r\\na=mid:0\\r\\n",
                  client, 0);
    for (int i = 0; i < lines; i++)
        at += sprintf(at, "a=rtcp-fb:%d goog-remb transport-cc %02d\\r\\n", 96 + i % 8, i);
    return (int)(at - to);
}
