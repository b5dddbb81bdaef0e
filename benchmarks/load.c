/* The load generator of the benchmark suite: one thread, one epoll, libc only.
 *
 *     load MODE PORT [name=value ...]     MODE: echo, broadcast, handshakes, idle, latency
 *
 * It must not be the bottleneck, so a connection owns no buffer: frames are masked once, before the clock
 * starts, and sent from one shared block; replies are compared in place with what was sent, as they arrive.
 * It must not reward a wrong server, so every reply's FIN, RSV bits, opcode, mask bit and length are checked,
 * and the content of every `sample`-th one; replies that are compressed are handed to the caller instead
 * (`capture`). Anything unexpected ends the run with {"error": ...} and status 1, and so does a stall, or a
 * connection that takes part and is not answered once in the measured window.
 *
 * It prints one line of JSON, with its own share of a core (getrusage over the measured window), the server's
 * (/proc/PID/stat, `pid`), and what anybody else took of the two cores (/proc/stat). All clients are on
 * 127.0.0.2 and up, so that ephemeral ports last.
 */
#include "client.h"
#include <fcntl.h>
#include <sys/timerfd.h>

#define CAPTURED 64                 /* replies of the first connection that go to the capture file */
#define PROBE_POLL 4                /* events served between two looks at the probe: its reading is this exact */
#define MAX_SAMPLES (4 * 1024 * 1024)

enum mode { ECHO, BROADCAST, HANDSHAKES, IDLE, LATENCY };
enum state { CONNECTING, UPGRADING, OPEN, CLOSED };

struct conn {
    int fd;
    enum state state;
    uint32_t index;
    uint32_t send_at, receive_at;   /* the next message to send and to expect, modulo their count */
    uint32_t outstanding;           /* messages sent and not answered */
    uint32_t echoed;                /* messages answered, idle */
    uint32_t pings, pongs;          /* received */
    bool wants_out;                 /* EPOLLOUT is in the epoll mask */
    bool close_seen;
    bool answered;                  /* in the measured window */
    const uint8_t *out;             /* what is left of the batch being sent, in the shared block */
    size_t out_left;
    uint8_t control[6 + 125];       /* one control frame on its way */
    uint8_t control_at, control_len;
    uint8_t head[10], head_len;     /* the frame header being read */
    uint8_t opcode;
    bool compare;
    bool in_payload;
    uint64_t length, left;          /* payload bytes of that frame: all, and still to come */
    uint8_t received[125];          /* a control frame's payload */
    char *response;                 /* the handshake response, until it is complete */
    size_t response_len;
    uint64_t sent_ns;               /* when the probe's message left */
};

/* Settings, each with its unit in `parse`. */
static enum mode mode;
static uint32_t active, depth = 1, sample = 1, rounds = 2, echoes;
static int opcode = TEXT;
static bool deflate, client_pings, may_drop_close;
static const char *capture_file;

/* The messages as masked frames ready to send, the first `depth` of them twice. */
static uint8_t *frames;
static size_t *frame_at;

static struct conn *conns;
static uint32_t opened, connecting;
static int poller, timer = -1;
static uint8_t buffer[READ_SIZE];
static bool running;
static char extensions[256];
static FILE *capture;
static uint32_t captured;
static uint64_t messages, checked, unclean, total_sent, total_delivered, last_progress;
static uint32_t round_pings;        /* connections that have seen every round of pings */
static uint32_t *samples;
static size_t sample_count;
static bool measuring;

static void make_frames(void)
{
    uint32_t all = message_count + depth;
    size_t total = 0;
    for (uint32_t i = 0; i < all; i++)
        total += plain_len[i % message_count] + 14;
    frames = allocate(total, 1);
    frame_at = allocate(all + 1, sizeof *frame_at);
    for (uint32_t i = 0; i < all; i++) {
        uint32_t m = i % message_count;
        frame_at[i + 1] = frame_at[i] + write_frame(frames + frame_at[i], (uint8_t)(0x80 | (deflate ? 0x40 : 0) | opcode),
                                                    plain[m], plain_len[m]);
    }
}

/* -- sending -------------------------------------------------------------------------------------------- */

static void watch(struct conn *c, bool out)
{
    if (c->wants_out == out)
        return;
    struct epoll_event event = {.events = EPOLLIN | (out ? EPOLLOUT : 0), .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &event);
    c->wants_out = out;
}

static void flush(struct conn *c)
{
    while (c->out_left || c->control_len) {
        bool control = c->control_len && (!c->out_left || c->control_at);
        const uint8_t *from = control ? c->control + c->control_at : c->out;
        size_t left = control ? (size_t)(c->control_len - c->control_at) : c->out_left;
        ssize_t n = send(c->fd, from, left, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno == EAGAIN || errno == EWOULDBLOCK)
                break;
            if (c->close_seen || may_drop_close)
                return;
            fail("send on connection %u: %s", c->index, strerror(errno));
        }
        if (control) {
            c->control_at += (uint8_t)n;
            if (c->control_at == c->control_len)
                c->control_at = c->control_len = 0;
        } else {
            c->out += n, c->out_left -= (size_t)n;
        }
    }
    watch(c, c->out_left || c->control_len);
}

/* Queue one control frame; a second one waits for nothing: RFC 6455 5.5.3 lets a pong be left out. */
static void send_control(struct conn *c, enum opcode op, const uint8_t *payload, size_t n)
{
    if (c->control_at)
        return;
    c->control_len = (uint8_t)write_frame(c->control, (uint8_t)(0x80 | op), payload, n);
    flush(c);
}

static void send_batch(struct conn *c, uint32_t count)
{
    c->out = frames + frame_at[c->send_at];
    c->out_left = frame_at[c->send_at + count] - frame_at[c->send_at];
    c->send_at = (c->send_at + count) % message_count;
    c->outstanding += count;
    total_sent += count;
    flush(c);
}

static bool is_probe(const struct conn *c)
{
    return mode == LATENCY && c->index == connections - 1;
}

/* A random pause below 0.5 ms before the probe's next message, so that it keeps no step with the load. */
static void arm_probe(void)
{
    struct itimerspec when = {.it_value.tv_nsec = 1000 + random_u32() % 499000};
    timerfd_settime(timer, 0, &when, NULL);
}

static void feed_broadcast(void)
{
    while (total_sent * connections - total_delivered <= (uint64_t)(depth - 1) * connections && !conns[0].out_left)
        send_batch(&conns[0], 1);
}

/* -- opening -------------------------------------------------------------------------------------------- */

static void open_connection(struct conn *c)
{
    uint32_t index = c->index;
    bool answered = c->answered;
    memset(c, 0, sizeof *c);
    c->index = index;
    c->answered = answered;
    c->send_at = c->receive_at = deflate || mode == BROADCAST ? 0 : index % message_count;
    c->response = allocate(HEAD_SIZE, 1);
    c->fd = dial();
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT, .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event);
    c->wants_out = true;
    c->state = CONNECTING;
}

static void open_more(void)
{
    while (opened + connecting < connections && connecting < OPENING) {
        uint32_t index = opened + connecting;
        conns[index].index = index;
        connecting++;
        open_connection(&conns[index]);
    }
}

static void ask(struct conn *c)
{
    static const char *offer = "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=12; "
                               "client_max_window_bits=12\r\n";
    send_request(c->fd, c->index, deflate ? offer : "");
    c->state = UPGRADING;
    watch(c, false);
}

static void on_response(struct conn *c)
{
    char *agreed = check_response(c->response, c->index, deflate);
    if (agreed && !*extensions)
        snprintf(extensions, sizeof extensions, "%s", agreed);
    free(agreed);
    free(c->response);
    c->response = NULL;
}

static void on_open(struct conn *c)
{
    static const uint8_t normal_closure[] = {0x03, 0xE8}; /* 1000 */
    c->state = OPEN;
    if (mode == HANDSHAKES) {
        send_control(c, CLOSE, normal_closure, 2);
        return;
    }
    connecting--, opened++;
    last_progress = now_ns();
    if (mode == IDLE && echoes)
        send_batch(c, 1);
    open_more();
}

/* -- receiving ------------------------------------------------------------------------------------------ */

static void on_header(struct conn *c)
{
    uint8_t first = c->head[0];
    c->opcode = first & 15;
    c->length = c->head[1] & 127;
    if (c->head[1] & 0x80)
        fail("a masked frame from the server");
    if (c->length >= 126) {
        uint64_t length = 0;
        for (int i = 2; i < c->head_len; i++)
            length = length << 8 | c->head[i];
        c->length = length;
    }
    c->left = c->length;
    c->compare = false;
    if (c->opcode & 8) {
        if ((first & 0xF0) != 0x80 || c->length > 125)
            fail("a malformed control frame: first byte 0x%02x", first);
        return;
    }
    if (mode == HANDSHAKES || (mode == IDLE && !c->outstanding))
        fail("a data frame nobody asked for: first byte 0x%02x", first);
    uint8_t expected = (uint8_t)(0x80 | (deflate ? 0x40 : 0) | opcode);
    if (first != expected)
        fail("first byte of a reply is 0x%02x, not 0x%02x", first, expected);
    if (mode != BROADCAST && !c->outstanding)
        fail("a reply to nothing on connection %u", c->index);
    if (deflate) {
        if (!c->length)
            fail("an empty compressed reply");
        if (c->index == 0 && capture && captured < CAPTURED) {
            uint32_t n = (uint32_t)c->length;
            uint8_t raw[4] = {(uint8_t)n, (uint8_t)(n >> 8), (uint8_t)(n >> 16), (uint8_t)(n >> 24)};
            fwrite(raw, 1, 4, capture);
        }
    } else {
        if (c->length != plain_len[c->receive_at])
            fail("a reply of %llu bytes, not %u", (unsigned long long)c->length, plain_len[c->receive_at]);
        c->compare = (messages + c->index) % sample == 0;
    }
}

static void on_payload(struct conn *c, const uint8_t *p, size_t n)
{
    size_t at = (size_t)(c->length - c->left);
    if (c->opcode & 8)
        memcpy(c->received + at, p, n);
    else if (c->compare && memcmp(plain[c->receive_at] + at, p, n) != 0)
        fail("a reply on connection %u has other content than its message", c->index);
    else if (deflate && c->index == 0 && capture && captured < CAPTURED)
        fwrite(p, 1, n, capture);
}

static void on_control(struct conn *c)
{
    switch (c->opcode) {
    case PING:
        send_control(c, PONG, c->received, (size_t)c->length);
        if (++c->pings == rounds)
            round_pings++;
        break;
    case PONG:
        if (mode == IDLE && client_pings && ++c->pongs <= rounds) {
            if (c->pongs == rounds)
                round_pings++;
            else
                send_control(c, PING, (const uint8_t *)"ping", 4);
        }
        break;
    case CLOSE:
        if (mode != HANDSHAKES)
            fail("the server closed connection %u with %u", c->index,
                 c->length >= 2 ? c->received[0] << 8 | c->received[1] : 1005);
        if (c->length < 2 || c->received[0] != 0x03 || c->received[1] != 0xE8)
            fail("the Close frame was not answered with 1000");
        c->close_seen = true;
        break;
    default:
        fail("unknown control frame 0x%x", c->opcode);
    }
}

static void on_message(struct conn *c)
{
    if (c->compare)
        checked++;
    if (deflate && c->index == 0 && capture && captured < CAPTURED && ++captured == CAPTURED)
        fflush(capture);
    c->receive_at = c->receive_at + 1 == message_count ? 0 : c->receive_at + 1;
    c->answered = true;
    if (mode == BROADCAST) {
        messages++, total_delivered++;
        if (running)
            feed_broadcast();
    } else if (is_probe(c)) {
        uint64_t took = now_ns() - c->sent_ns;
        c->outstanding = 0;
        if (measuring && sample_count < MAX_SAMPLES)
            samples[sample_count++] = (uint32_t)(took < UINT32_MAX ? took : UINT32_MAX);
        if (running)
            arm_probe();
    } else {
        messages++;
        if (--c->outstanding == 0 && (running || (mode == IDLE && ++c->echoed < echoes)))
            send_batch(c, depth);
    }
}

static void feed(struct conn *c, const uint8_t *p, size_t n)
{
    while (n) {
        if (!c->in_payload) {
            uint8_t need = 2;
            if (c->head_len >= 2)
                need = (c->head[1] & 127) == 127 ? 10 : (c->head[1] & 127) == 126 ? 4 : 2;
            if (c->head_len < need) {
                c->head[c->head_len++] = *p++, n--;
                if (c->head_len < 2 || c->head_len < ((c->head[1] & 127) == 127 ? 10 : (c->head[1] & 127) == 126 ? 4 : 2))
                    continue;
            }
            on_header(c);
            c->head_len = 0;
            c->in_payload = true;
        }
        size_t take = c->left < n ? (size_t)c->left : n;
        if (take) {
            on_payload(c, p, take);
            p += take, n -= take, c->left -= take;
        }
        if (c->left == 0) {
            c->in_payload = false;
            if (c->opcode & 8)
                on_control(c);
            else
                on_message(c);
        }
    }
}

static void on_end(struct conn *c, const char *how)
{
    if (mode == HANDSHAKES && c->state == OPEN && !c->close_seen && may_drop_close)
        unclean++;
    else if (mode != HANDSHAKES || !c->close_seen)
        fail("the server ended connection %u %s: %s", c->index,
             c->state == OPEN ? "without a Close frame" : "before its 101", how);
    close(c->fd);
    c->answered = true;
    messages++;
    last_progress = now_ns();
    if (running)
        open_connection(c);
    else
        c->state = CLOSED;
}

/* Returns false when there was nothing to read. */
static bool on_readable(struct conn *c)
{
    ssize_t n = recv(c->fd, buffer, sizeof buffer, 0);
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))
        return false;
    if (n <= 0) {
        on_end(c, n ? strerror(errno) : "end of stream");
        return true;
    }
    const uint8_t *p = buffer;
    if (c->state == UPGRADING) {
        size_t room = HEAD_SIZE - 1 - c->response_len, take = (size_t)n < room ? (size_t)n : room;
        memcpy(c->response + c->response_len, p, take);
        c->response[c->response_len + take] = 0;
        char *end = strstr(c->response, "\r\n\r\n");
        if (!end) {
            c->response_len += take;
            if (take == room)
                fail("the handshake response is too long");
            return true;
        }
        size_t used = (size_t)(end + 4 - c->response) - c->response_len;
        end[2] = 0;
        on_response(c);
        on_open(c);
        p += used, n -= (ssize_t)used;
    }
    feed(c, p, (size_t)n);
    return true;
}

static void on_event(struct conn *c, uint32_t events)
{
    if (c->state == CLOSED)
        return;
    if (c->state == CONNECTING) {
        if (events & (EPOLLOUT | EPOLLERR | EPOLLHUP))
            ask(c);
        return;
    }
    if (events & EPOLLOUT)
        flush(c);
    if (events & (EPOLLIN | EPOLLERR | EPOLLHUP))
        on_readable(c);
}

/* -- the run -------------------------------------------------------------------------------------------- */

static void start(void)
{
    running = true;
    last_progress = now_ns();
    if (mode == BROADCAST)
        feed_broadcast();
    else if (mode == ECHO || mode == LATENCY)
        for (uint32_t i = 0; i < active; i++)
            if (!is_probe(&conns[i]))
                send_batch(&conns[i], depth);
    if (mode == LATENCY)
        arm_probe();
}

static int by_value(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static double percentile_us(double share)
{
    size_t at = (size_t)(share * (double)sample_count);
    return (double)samples[at < sample_count ? at : sample_count - 1] / 1e3;
}

/* A rate says nothing of a server that forgot some of those who wait for it. */
static void check_answers(void)
{
    uint32_t waiting = mode == BROADCAST ? connections : active, silent = 0;
    if (!messages)
        fail("nothing was answered in the measured %g s", seconds);
    if (mode == LATENCY && !sample_count)
        fail("the probe got no reply in the measured time");
    for (uint32_t i = 0; i < waiting; i++)
        silent += !conns[i].answered;
    if (silent)
        fail("%u of %u connections %s in the measured %g s", silent, waiting,
             mode == BROADCAST ? "heard nothing" : "had no reply", seconds);
}

static void report(double took, struct cpu cpu)
{
    check_answers();
    printf("{\"messages\": %llu, \"seconds\": %.6f, \"rate\": %.3f, \"checked\": %llu, ",
           (unsigned long long)messages, took, (double)messages / took, (unsigned long long)checked);
    print_cpu(cpu, took);
    if (mode == LATENCY) {
        qsort(samples, sample_count, sizeof *samples, by_value);
        printf("\"samples\": %zu, \"p50_us\": %.2f, \"p99_us\": %.2f, \"p999_us\": %.2f, \"max_us\": %.2f, ", sample_count,
               percentile_us(0.5), percentile_us(0.99), percentile_us(0.999), percentile_us(1));
    }
    printf("\"captured\": %u, \"unclean\": %llu, \"extensions\": ", captured, (unsigned long long)unclean);
    print_string(extensions);
    printf("}\n");
    fflush(stdout);
}

static void serve_events(struct epoll_event *events, int count)
{
    struct conn *probe = mode == LATENCY ? &conns[connections - 1] : NULL;
    for (int i = 0; i < count; i++) {
        if (probe && i % PROBE_POLL == 0 && probe->outstanding)
            on_readable(probe);
        if (events[i].data.ptr == &timer) {
            uint64_t expirations;
            if (read(timer, &expirations, sizeof expirations) == sizeof expirations && running) {
                probe->sent_ns = now_ns();
                send_batch(probe, 1);
            }
        } else {
            on_event(events[i].data.ptr, events[i].events);
        }
    }
}

static void run_timed(void)
{
    struct epoll_event events[256];
    uint64_t begin = 0, from = 0, until = 0, seen = 0;
    if (mode == HANDSHAKES) {
        running = true;
        connecting = connections;
        for (uint32_t i = 0; i < connections; i++) {
            conns[i].index = i;
            open_connection(&conns[i]);
        }
    } else {
        open_more();
    }
    last_progress = now_ns();
    for (;;) {
        int count = epoll_wait(poller, events, 256, 20);
        if (count < 0 && errno != EINTR)
            fail("epoll_wait: %s", strerror(errno));
        serve_events(events, count);
        uint64_t now = now_ns();
        if (messages != seen)
            seen = messages, last_progress = now;
        else if (now - last_progress > STALL_NS)
            fail("stalled: %u of %u connections open, %llu messages, then nothing for 15 s", opened, connections,
                 (unsigned long long)messages);
        if (!begin && (opened == connections || mode == HANDSHAKES)) {
            begin = now + (uint64_t)(settle * 1e9);
            from = begin + (uint64_t)(warmup * 1e9);
        }
        if (begin && !until && now >= begin && !running)
            start();
        if (begin && !until && now >= from) {
            messages = checked = unclean = seen = 0;
            for (uint32_t i = 0; i < connections; i++)
                conns[i].answered = false;
            measuring = true;
            from = now, until = now + (uint64_t)(seconds * 1e9);
            cpu_start();
        } else if (until && now >= until) {
            report((double)(now - from) / 1e9, cpu_since_start());
            return;
        }
    }
}

/* Open all, say so; say when every connection has had its echoes and its rounds of pings; hold until standard input
 * ends. */
static void run_idle(void)
{
    struct epoll_event events[256], input = {.events = EPOLLIN, .data.ptr = NULL};
    bool open_said = false, rounds_said = false;
    epoll_ctl(poller, EPOLL_CTL_ADD, STDIN_FILENO, &input);
    last_progress = now_ns();
    open_more();
    for (;;) {
        int count = epoll_wait(poller, events, 256, 1000);
        if (count < 0 && errno != EINTR)
            fail("epoll_wait: %s", strerror(errno));
        for (int i = 0; i < count; i++) {
            if (!events[i].data.ptr)
                return;
            on_event(events[i].data.ptr, events[i].events);
        }
        if (!open_said && opened < connections && now_ns() - last_progress > STALL_NS)
            fail("stalled: %u of %u connections open", opened, connections);
        if (!open_said && opened == connections) {
            open_said = true;
            printf("{\"open\": %u}\n", opened);
            fflush(stdout);
            for (uint32_t i = 0; client_pings && i < connections; i++)
                send_control(&conns[i], PING, (const uint8_t *)"ping", 4);
        }
        if (open_said && !rounds_said && round_pings == connections && messages == (uint64_t)connections * echoes) {
            rounds_said = true;
            printf("{\"rounds\": %u}\n", rounds);
            fflush(stdout);
        }
    }
}

static void parse(int argc, char **argv)
{
    static const char *names[] = {"echo", "broadcast", "handshakes", "idle", "latency"};
    if (argc < 3)
        fail("usage: load MODE PORT [name=value ...]");
    for (mode = ECHO; mode <= LATENCY && strcmp(names[mode], argv[1]) != 0; mode++)
        ;
    if (mode > LATENCY)
        fail("unknown mode %s", argv[1]);
    port = atoi(argv[2]);
    for (int i = 3; i < argc; i++) {
        const char *value;
        if (common_option(argv[i])) continue;
        else if (is("active", argv[i], &value)) active = (uint32_t)atoi(value);       /* of them, how many send */
        else if (is("depth", argv[i], &value)) depth = (uint32_t)atoi(value);         /* messages a batch */
        else if (is("opcode", argv[i], &value)) opcode = atoi(value);                 /* 1 text, 2 binary */
        else if (is("deflate", argv[i], &value)) deflate = atoi(value);               /* payloads are compressed */
        else if (is("sample", argv[i], &value)) sample = (uint32_t)atoi(value);       /* compare every n-th reply */
        else if (is("rounds", argv[i], &value)) rounds = (uint32_t)atoi(value);       /* of pings, idle */
        else if (is("echoes", argv[i], &value)) echoes = (uint32_t)atoi(value);       /* before that, idle */
        else if (is("client_pings", argv[i], &value)) client_pings = atoi(value);     /* who pings, idle */
        else if (is("may_drop_close", argv[i], &value)) may_drop_close = atoi(value); /* count it, do not fail */
        else if (is("capture", argv[i], &value)) capture_file = value;
        else fail("unknown option %s", argv[i]);
    }
    if (mode == LATENCY)
        connections++, depth = 1;
    if (!active || active > connections)
        active = connections;
    check_common_options();
    if (!depth || !sample)
        fail("a count is 0");
}

int main(int argc, char **argv)
{
    parse(argc, argv);
    load_messages();
    make_frames();
    load_keys();
    conns = allocate(connections, sizeof *conns);
    if (capture_file && !(capture = fopen(capture_file, "wb")))
        fail("cannot open the capture file");
    poller = epoll_create1(EPOLL_CLOEXEC);
    if (mode == LATENCY) {
        samples = allocate(MAX_SAMPLES, sizeof *samples);
        timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &timer};
        epoll_ctl(poller, EPOLL_CTL_ADD, timer, &event);
    }
    if (mode == IDLE)
        run_idle();
    else
        run_timed();
    if (capture)
        fclose(capture);
    return 0;
}
