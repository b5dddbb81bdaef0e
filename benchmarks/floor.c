/* The floor of the benchmark suite: the least that a WebSocket server can do, one thread, one epoll, libc only.
 *
 *     floor PORT MODE          MODE: echo, broadcast
 *
 * It answers the Upgrade, echoes data frames (or sends each to every connection), answers pings and closes, and
 * knows nothing else: no limits, no fragments, no UTF-8 check, no extensions, no keepalive, no deadlines. What
 * it reaches is what the kernel and the load generator allow; the other servers are read against it. The replies
 * to one read leave in one send; bytes that the kernel does not take wait, and reading stops meanwhile.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <malloc.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define READ_SIZE (256 * 1024)
#define MAX_FRAME (16 * 1024 * 1024)
#define LARGE (16 * 1024)           /* payload bytes from which on a frame is echoed out of its own buffer */

struct conn {
    int fd;
    bool open, closing;
    uint32_t place;             /* in the list of open connections */
    uint8_t *in, *out;          /* a partial frame; bytes that the kernel did not take */
    size_t in_len, in_room, out_len, out_at;
    size_t need;                /* bytes of the partial frame when it is whole, once its header is known */
};

static int poller, listener;
static bool broadcasting;
static struct conn **members;
static uint32_t member_count, member_room;
static struct conn **dead;      /* freed at the end of a batch: its events may still name them */
static uint32_t dead_count, dead_room;
static uint8_t buffer[READ_SIZE], *reply;
static size_t reply_len, reply_room;

static void *grow(void *p, size_t size)
{
    p = realloc(p, size);
    if (!p) {
        perror("floor");
        exit(1);
    }
    return p;
}

/* -- SHA-1 and base64, for Sec-WebSocket-Accept (RFC 6455 4.2.2, FIPS 180-4) ------------------------------ */

static uint32_t rol(uint32_t x, int n)
{
    return x << n | x >> (32 - n);
}

static void sha1(const uint8_t *text, size_t n, uint8_t digest[20])
{
    uint32_t h[5] = {0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0}, w[80];
    uint8_t block[128] = {0};
    size_t size = n + 9 <= 64 ? 64 : 128; /* a key and the GUID are 60 bytes: two blocks at most */
    memcpy(block, text, n);
    block[n] = 0x80;
    for (int i = 0; i < 8; i++)
        block[size - 1 - (size_t)i] = (uint8_t)((uint64_t)n * 8 >> (8 * i));
    for (size_t at = 0; at < size; at += 64) {
        for (int i = 0; i < 16; i++)
            w[i] = (uint32_t)block[at + 4 * i] << 24 | (uint32_t)block[at + 4 * i + 1] << 16 |
                   (uint32_t)block[at + 4 * i + 2] << 8 | block[at + 4 * i + 3];
        for (int i = 16; i < 80; i++)
            w[i] = rol(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
        uint32_t a = h[0], b = h[1], c = h[2], d = h[3], e = h[4];
        for (int i = 0; i < 80; i++) {
            uint32_t f, k;
            if (i < 20) f = (b & c) | (~b & d), k = 0x5A827999;
            else if (i < 40) f = b ^ c ^ d, k = 0x6ED9EBA1;
            else if (i < 60) f = (b & c) | (b & d) | (c & d), k = 0x8F1BBCDC;
            else f = b ^ c ^ d, k = 0xCA62C1D6;
            uint32_t next = rol(a, 5) + f + e + k + w[i];
            e = d, d = c, c = rol(b, 30), b = a, a = next;
        }
        h[0] += a, h[1] += b, h[2] += c, h[3] += d, h[4] += e;
    }
    for (int i = 0; i < 20; i++)
        digest[i] = (uint8_t)(h[i / 4] >> (24 - 8 * (i % 4)));
}

static void accept_value(const char *key, size_t n, char out[29])
{
    static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    static const char guid[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    uint8_t text[64 + sizeof guid], digest[21] = {0};
    memcpy(text, key, n);
    memcpy(text + n, guid, sizeof guid - 1);
    sha1(text, n + sizeof guid - 1, digest);
    for (int i = 0; i < 7; i++) {
        uint32_t x = (uint32_t)digest[3 * i] << 16 | (uint32_t)digest[3 * i + 1] << 8 | (i < 6 ? digest[3 * i + 2] : 0u);
        for (int j = 0; j < 4; j++)
            out[4 * i + j] = alphabet[x >> (18 - 6 * j) & 63];
    }
    out[27] = '=', out[28] = 0;
}

/* -- sending ---------------------------------------------------------------------------------------------- */

static void watch(struct conn *c, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &event);
}

static void drop(struct conn *c)
{
    if (c->fd < 0)
        return;
    close(c->fd);
    c->fd = -1;
    if (c->open) {
        members[c->place] = members[--member_count];
        members[c->place]->place = c->place;
    }
    if (dead_count == dead_room)
        dead = grow(dead, (dead_room = dead_room ? dead_room * 2 : 64) * sizeof *dead);
    dead[dead_count++] = c;
}

static void transmit(struct conn *c, const uint8_t *p, size_t n)
{
    if (c->fd < 0)
        return;
    if (!c->out_len) {
        ssize_t sent = send(c->fd, p, n, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0 && errno != EAGAIN && errno != EWOULDBLOCK) {
            drop(c);
            return;
        }
        if (sent > 0)
            p += sent, n -= (size_t)sent;
        if (!n)
            return;
        watch(c, EPOLLOUT);
    }
    c->out = grow(c->out, c->out_len + n);
    memcpy(c->out + c->out_len, p, n);
    c->out_len += n;
}

static void on_writable(struct conn *c)
{
    ssize_t sent = send(c->fd, c->out + c->out_at, c->out_len - c->out_at, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0) {
        if (errno != EAGAIN && errno != EWOULDBLOCK)
            drop(c);
        return;
    }
    c->out_at += (size_t)sent;
    if (c->out_at < c->out_len)
        return;
    free(c->out);
    c->out = NULL, c->out_at = c->out_len = 0;
    if (c->closing)
        drop(c);
    else
        watch(c, EPOLLIN);
}

/* -- frames ----------------------------------------------------------------------------------------------- */

/* XOR n bytes with the key; `to` and `from` may be the same. */
static void unmask(uint8_t *to, const uint8_t *from, const uint8_t key[4], size_t n)
{
    uint32_t mask;
    size_t i = 0;
    memcpy(&mask, key, 4);
    uint64_t wide = (uint64_t)mask << 32 | mask;
    for (; i + 8 <= n; i += 8) {
        uint64_t x;
        memcpy(&x, from + i, 8);
        x ^= wide;
        memcpy(to + i, &x, 8);
    }
    for (; i < n; i++)
        to[i] = from[i] ^ ((uint8_t *)&mask)[i & 3];
}

static size_t put_header(uint8_t *p, uint8_t first, size_t n)
{
    *p++ = first;
    if (n < 126) {
        *p = (uint8_t)n;
        return 2;
    }
    if (n < 65536) {
        *p++ = 126, *p++ = (uint8_t)(n >> 8), *p = (uint8_t)n;
        return 4;
    }
    *p++ = 127;
    for (int shift = 56; shift >= 0; shift -= 8)
        *p++ = (uint8_t)((uint64_t)n >> shift);
    return 10;
}

/* Echo the large frame that fills the connection's buffer out of that buffer: a server's header is 4 bytes shorter. */
static void echo_in_place(struct conn *c, size_t head, size_t length)
{
    uint8_t first = c->in[0], *payload = c->in + head + 4;
    unmask(payload, payload, payload - 4, length);
    put_header(payload - head, first, length);
    c->out = c->in, c->out_at = 4, c->out_len = head + 4 + length;
    c->in = NULL, c->in_len = c->in_room = c->need = 0;
    on_writable(c);
    if (c->fd >= 0 && c->out)
        watch(c, EPOLLOUT);
}

static void put_frame(uint8_t first, const uint8_t *payload, const uint8_t key[4], size_t n)
{
    if (reply_len + n + 10 > reply_room)
        reply = grow(reply, reply_room = (reply_len + n + 10) * 2);
    reply_len += put_header(reply + reply_len, first, n);
    unmask(reply + reply_len, payload, key, n);
    reply_len += n;
}

/* Serve the whole frames in p; returns the bytes used, or -1 for a frame that the floor does not know. */
static ssize_t serve_frames(struct conn *c, const uint8_t *p, size_t n)
{
    size_t at = 0;
    while (!c->closing && n - at >= 6) {
        size_t length = p[at + 1] & 127, head = 2;
        if (!(p[at + 1] & 0x80) || !(p[at] & 0x80))
            return -1;
        if (length == 126) {
            if (n - at < 8)
                break;
            length = (size_t)p[at + 2] << 8 | p[at + 3], head = 4;
        } else if (length == 127) {
            if (n - at < 14)
                break;
            length = 0, head = 10;
            for (int i = 2; i < 10; i++)
                length = length << 8 | p[at + i];
        }
        if (length > MAX_FRAME)
            return -1;
        if (n - at < head + 4 + length) {
            c->need = head + 4 + length;
            break;
        }
        if (p == c->in && length >= LARGE && n == head + 4 + length && !(p[at] & 8) && !broadcasting && !c->out_len) {
            echo_in_place(c, head, length);
            return (ssize_t)n;
        }
        const uint8_t *key = p + at + head, *payload = key + 4;
        uint8_t first = p[at];
        at += head + 4 + length;
        if ((first & 15) == 10)
            continue;
        if ((first & 15) == 9)
            first = 0x8A;
        else if ((first & 15) == 8)
            c->closing = true;
        size_t from = reply_len;
        put_frame(first, payload, key, length);
        if (broadcasting && !(first & 8)) {
            for (uint32_t i = member_count; i-- > 0;)
                transmit(members[i], reply + from, reply_len - from);
            reply_len = from;
        }
    }
    return (ssize_t)at;
}

static ssize_t serve_request(struct conn *c, const uint8_t *p, size_t n)
{
    char text[4096], accept[29];
    size_t size = n < sizeof text - 1 ? n : sizeof text - 1;
    memcpy(text, p, size);
    text[size] = 0;
    char *end = strstr(text, "\r\n\r\n");
    if (!end)
        return size < sizeof text - 1 ? 0 : -1;
    char *key = strcasestr(text, "\r\nSec-WebSocket-Key:");
    if (!key || key > end)
        return -1;
    key += 20;
    key += strspn(key, " ");
    size_t length = strcspn(key, " \r\n");
    if (length != 24)
        return -1;
    accept_value(key, length, accept);
    if (reply_room < 512)
        reply = grow(reply, reply_room = 512);
    reply_len = (size_t)sprintf((char *)reply, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                                "Connection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n", accept);
    c->open = true;
    if (member_count == member_room)
        members = grow(members, (member_room = member_room ? member_room * 2 : 64) * sizeof *members);
    members[c->place = member_count++] = c;
    return end + 4 - text;
}

static void on_readable(struct conn *c)
{
    uint8_t *to = buffer;
    size_t room = sizeof buffer;
    if (c->in_len) {
        size_t wanted = c->need > c->in_len ? c->need : c->in_len + 4096;
        if (wanted > c->in_room)
            c->in = grow(c->in, c->in_room = wanted);
        to = c->in + c->in_len, room = c->in_room - c->in_len;
    }
    ssize_t n = recv(c->fd, to, room, 0);
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
        return;
    if (n <= 0) {
        drop(c);
        return;
    }
    const uint8_t *p = buffer;
    size_t size = (size_t)n, at = 0;
    if (c->in_len) {
        p = c->in, size += c->in_len;
        c->need = 0;
    }
    reply_len = 0;
    if (!c->open) {
        ssize_t used = serve_request(c, p, size);
        if (used < 0) {
            drop(c);
            return;
        }
        at = (size_t)used;
    }
    if (c->open) {
        ssize_t used = serve_frames(c, p + at, size - at);
        if (used < 0) {
            drop(c);
            return;
        }
        at += (size_t)used;
        if (c->fd >= 0 && !c->in && p != buffer)
            return; /* the buffer is on its way out */
    }
    if (reply_len)
        transmit(c, reply, reply_len);
    if (c->fd < 0)
        return;
    if (c->closing && !c->out_len) {
        drop(c);
        return;
    }
    size_t left = size - at;
    if (!left) {
        free(c->in);
        c->in = NULL, c->in_room = c->need = 0;
    } else if (p == c->in) {
        memmove(c->in, c->in + at, left);
    } else {
        c->in = grow(c->in, c->in_room = c->need > left ? c->need : left);
        memcpy(c->in, p + at, left);
    }
    c->in_len = left;
}

static void on_accept(void)
{
    int fd, on = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        struct conn *c = grow(NULL, sizeof *c);
        memset(c, 0, sizeof *c);
        c->fd = fd;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
        epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
    }
}

int main(int argc, char **argv)
{
    if (argc < 3)
        return 2;
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[1]))};
    struct epoll_event events[256], event = {.events = EPOLLIN, .data.ptr = NULL};
    int on = 1;
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    mallopt(M_MMAP_THRESHOLD, 2 * MAX_FRAME); /* a large frame's buffer stays mapped from one to the next */
    mallopt(M_TRIM_THRESHOLD, 2 * MAX_FRAME);
    broadcasting = strcmp(argv[2], "broadcast") == 0;
    listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&to, sizeof to) < 0 || listen(listener, 4096) < 0) {
        perror("floor");
        return 1;
    }
    poller = epoll_create1(EPOLL_CLOEXEC);
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int count = epoll_wait(poller, events, 256, -1);
        for (int i = 0; i < count; i++) {
            struct conn *c = events[i].data.ptr;
            if (!c) {
                on_accept();
            } else if (c->fd >= 0) {
                if (events[i].events & EPOLLOUT)
                    on_writable(c);
                else
                    on_readable(c);
            }
        }
        for (; dead_count; dead_count--) {
            free(dead[dead_count - 1]->in);
            free(dead[dead_count - 1]->out);
            free(dead[dead_count - 1]);
        }
    }
}
