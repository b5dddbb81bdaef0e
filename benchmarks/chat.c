/* The load generator of the case `chat`: a room of many members who all say something once a period.
 *
 *     chat PORT [name=value ...]
 *
 * It joins one member after the other, then lets them speak in turn, evenly over the period, whether the server
 * keeps up or not. What a delivery took is counted from when the message was due to be said, not from when it
 * was: a server that holds the generator up is not let off. Every message that falls due in the measured time
 * counts, and the run ends when all of them have reached every member.
 *
 * It must not reward a wrong server. The first member that gets a message reads it: its room, its id (which must
 * grow), its sender's name, its client id (the sender's next one) and its text. All others must get the same
 * bytes in the same order, so a delivery costs one comparison, and nothing can be lost, doubled or swapped.
 * Errors, the report and the measuring of CPU time are those of load.c.
 */
#include "client.h"

#define ROOM "benchmark"
#define MAX_FRAME (1024 * 1024)     /* bytes of a frame from the server: a list of members is the longest */
#define TICK_NS 10000ull            /* what the time of a delivery is rounded up to */
#define MAX_TICKS (3 * 1000 * 1000) /* 30 s; whatever takes longer counts as that */

enum state { CONNECTING, UPGRADING, JOINING, PRESENT };

struct member {
    int fd;
    enum state state;
    uint32_t index;
    uint32_t heard;                 /* messages received, of those in the log */
    uint32_t said;                  /* its own messages in the log */
    uint8_t *rest;                  /* what was read of a frame that is not complete */
    size_t rest_len;
};

/* What was said in the room, in its order, as the first member got it. */
struct message {
    size_t at;                      /* of its JSON text, in `texts` */
    uint32_t length;
    uint64_t due_ns;
};

static double period = 1;           /* seconds between two messages of a member */

static struct message *messages;
static uint32_t message_room, said, sent;
static char *texts;
static size_t texts_len, texts_room;
static unsigned long long last_id;

static struct member *members;
static uint32_t present, joining;
static int poller;
static uint8_t buffer[MAX_FRAME + READ_SIZE];
static uint64_t begin_ns, from_ns, until_ns; /* of speaking, and of the measured time; 0 until everybody is there */
static uint64_t last_progress;
static uint64_t delivered, delivered_in_time, counted, worst_ns;
static uint32_t *ticks;             /* how many of the counted deliveries took so many ticks */

/* -- saying --------------------------------------------------------------------------------------------- */

static void send_frame(struct member *m, uint8_t first, const void *payload, size_t n)
{
    uint8_t frame[8192];
    if (n > sizeof frame - 14)
        fail("a message of %zu bytes is too long for this generator", n);
    size_t length = write_frame(frame, first, payload, n);
    ssize_t done = send(m->fd, frame, length, MSG_NOSIGNAL);
    if (done != (ssize_t)length)
        fail("member %u cannot say anything: %s", m->index, done < 0 ? strerror(errno) : "the server does not read");
}

static void send_json(struct member *m, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void send_json(struct member *m, const char *format, ...)
{
    char text[8192];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    send_frame(m, 0x80 | TEXT, text, (size_t)n);
}

/* Messages are numbered as they fall due; a member says every `connections`-th of them. */
static uint64_t due_ns(uint32_t number)
{
    return begin_ns + (uint64_t)(period * 1e9 / connections * number);
}

static uint32_t text_of(uint32_t member, uint32_t number)
{
    return (member + number) % message_count;
}

static void say_what_is_due(void)
{
    while (begin_ns && due_ns(sent) < until_ns && due_ns(sent) <= now_ns()) {
        uint32_t speaker = sent % connections, number = sent / connections, text = text_of(speaker, number);
        send_json(&members[speaker], "{\"type\":\"message\",\"room\":\"" ROOM "\",\"client\":\"%u-%u\",\"text\":\"%.*s\"}",
                  speaker, number, (int)plain_len[text], (char *)plain[text]);
        sent++;
    }
}

/* -- hearing -------------------------------------------------------------------------------------------- */

/* The value of a field, or NULL. Texts have no quotes, so a name in quotes with a colon is a key. */
static const char *field(const char *json, const char *name)
{
    char key[32];
    int n = snprintf(key, sizeof key, "\"%s\":", name);
    const char *found = strstr(json, key);
    return found ? found + n : NULL;
}

static bool field_is(const char *json, const char *name, const char *wanted, size_t n)
{
    const char *value = field(json, name);
    return value && value[0] == '"' && strncmp(value + 1, wanted, n) == 0 && value[1 + n] == '"';
}

static bool has_type(const char *json, const char *type)
{
    return field_is(json, "type", type, strlen(type));
}

/* Read a message that nobody has heard yet, and put it into the log. */
static void read_message(const char *json, size_t n)
{
    uint32_t speaker, number;
    char name[32];
    const char *id = field(json, "id"), *client = field(json, "client");
    if (!has_type(json, "message") || !id || !client || !field_is(json, "room", ROOM, strlen(ROOM)))
        fail("not a message of the room: %.200s", json);
    if (sscanf(client, "\"%u-%u\"", &speaker, &number) != 2 || speaker >= connections ||
        number != members[speaker].said || number * connections + speaker >= sent)
        fail("a message that nobody sent, or out of its sender's order: %.200s", json);
    int length = snprintf(name, sizeof name, "member %u", speaker);
    if (!field_is(json, "name", name, (size_t)length))
        fail("a message with another sender's name: %.200s", json);
    uint32_t text = text_of(speaker, number);
    if (!field_is(json, "text", (char *)plain[text], plain_len[text]))
        fail("a message with another text than was said: %.200s", json);
    unsigned long long found = strtoull(id, NULL, 10);
    if (found <= last_id)
        fail("id %llu after id %llu", found, last_id);
    last_id = found;
    members[speaker].said++;
    if (said == message_room) {
        message_room = message_room ? message_room * 2 : 1024;
        messages = resize(messages, message_room * sizeof *messages);
    }
    if (texts_len + n > texts_room) {
        texts_room = 2 * (texts_len + n);
        texts = resize(texts, texts_room);
    }
    memcpy(texts + texts_len, json, n);
    messages[said++] = (struct message){texts_len, (uint32_t)n, due_ns(number * connections + speaker)};
    texts_len += n;
}

static void count_delivery(const struct message *message, uint64_t now)
{
    delivered++;
    last_progress = now;
    if (now >= from_ns && now < until_ns)
        delivered_in_time++;
    if (message->due_ns < from_ns)
        return;
    uint64_t took = now - message->due_ns, at = (took + TICK_NS - 1) / TICK_NS;
    counted++;
    ticks[at < MAX_TICKS ? at : MAX_TICKS - 1]++;
    if (took > worst_ns)
        worst_ns = took;
}

static void join_more(void);

/* One text message from the server; the byte behind it may be written to. */
static void on_text(struct member *m, uint8_t *payload, size_t n, uint64_t now)
{
    const char *json = (const char *)payload;
    uint8_t behind = payload[n];
    if (m->heard < said && messages[m->heard].length == n && memcmp(texts + messages[m->heard].at, json, n) == 0) {
        count_delivery(&messages[m->heard++], now);
        return;
    }
    payload[n] = 0;
    if (has_type(json, "error"))
        fail("member %u was told of an error: %.200s", m->index, json);
    if (m->state == JOINING) {
        if (field_is(json, "event", "members", 7)) {
            m->state = PRESENT;
            joining--, present++;
            last_progress = now;
            join_more();
        } else if (!has_type(json, "welcome") && !has_type(json, "history") && !has_type(json, "presence")) {
            fail("not what follows a hello: %.200s", json);
        }
    } else if (m->heard || !has_type(json, "presence")) { /* people come until the first message, and not after it */
        if (m->heard < said)
            fail("member %u did not get what others got: %.200s", m->index, json);
        read_message(json, n);
        count_delivery(&messages[m->heard++], now);
    }
    payload[n] = behind;
}

static void on_frame(struct member *m, uint8_t first, uint8_t *payload, size_t n, uint64_t now)
{
    switch (first) {
    case 0x80 | TEXT:
        on_text(m, payload, n, now);
        break;
    case 0x80 | PING:
        send_frame(m, 0x80 | PONG, payload, n);
        break;
    case 0x80 | CLOSE:
        fail("the server closed member %u with %d %.*s", m->index, n >= 2 ? payload[0] << 8 | payload[1] : 1005,
             n > 2 ? (int)n - 2 : 0, (char *)payload + 2);
    default:
        fail("first byte of a frame is 0x%02x", first);
    }
}

/* Serve every complete frame; return the bytes of them. */
static size_t read_frames(struct member *m, uint8_t *p, size_t n, uint64_t now)
{
    size_t at = 0;
    while (n - at >= 2) {
        const uint8_t *head = p + at;
        uint64_t length = head[1];
        size_t head_len = length == 127 ? 10 : length == 126 ? 4 : 2;
        if (length & 0x80)
            fail("a masked frame from the server");
        if (n - at < head_len)
            break;
        if (head_len > 2) {
            length = 0;
            for (size_t i = 2; i < head_len; i++)
                length = length << 8 | head[i];
        }
        if (length > MAX_FRAME - 10)
            fail("a frame of %llu bytes", (unsigned long long)length);
        if (n - at < head_len + length)
            break;
        on_frame(m, head[0], p + at + head_len, (size_t)length, now);
        at += head_len + (size_t)length;
    }
    return at;
}

static void on_readable(struct member *m)
{
    size_t kept = m->rest_len, at = 0;
    ssize_t n = recv(m->fd, buffer + kept, READ_SIZE - 1, 0); /* room for a zero behind it */
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))
        return;
    if (n <= 0)
        fail("the server ended member %u without a Close frame: %s", m->index, n ? strerror(errno) : "end of stream");
    uint64_t now = now_ns();
    if (kept)
        memcpy(buffer, m->rest, kept);
    size_t all = kept + (size_t)n;
    if (m->state == UPGRADING) {
        buffer[all] = 0;
        char *end = strstr((char *)buffer, "\r\n\r\n");
        if (!end && all >= HEAD_SIZE)
            fail("the handshake response is too long");
        if (end) {
            end[2] = 0;
            check_response((char *)buffer, m->index, false);
            at = (size_t)((uint8_t *)end + 4 - buffer);
            m->state = JOINING;
            send_json(m, "{\"type\":\"hello\",\"name\":\"member %u\",\"rooms\":[{\"room\":\"" ROOM "\"}]}", m->index);
        }
    }
    if (m->state != UPGRADING)
        at += read_frames(m, buffer + at, all - at, now);
    free(m->rest);
    m->rest = NULL;
    if ((m->rest_len = all - at)) {
        m->rest = allocate(m->rest_len, 1);
        memcpy(m->rest, buffer + at, m->rest_len);
    }
}

static void on_event(struct member *m, uint32_t events)
{
    if (m->state != CONNECTING) {
        on_readable(m);
    } else if (events & (EPOLLOUT | EPOLLERR | EPOLLHUP)) {
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = m};
        send_request(m->fd, m->index, "");
        m->state = UPGRADING;
        epoll_ctl(poller, EPOLL_CTL_MOD, m->fd, &event);
    }
}

/* -- the run -------------------------------------------------------------------------------------------- */

static void join_more(void)
{
    while (present + joining < connections && joining < OPENING) {
        struct member *m = &members[present + joining];
        struct epoll_event event = {.events = EPOLLIN | EPOLLOUT, .data.ptr = m};
        m->index = present + joining++;
        m->fd = dial();
        epoll_ctl(poller, EPOLL_CTL_ADD, m->fd, &event);
    }
}

static double percentile_ms(double share)
{
    uint64_t wanted = (uint64_t)(share * (double)counted), so_far = 0;
    size_t at = 0;
    while (at < MAX_TICKS - 1 && (so_far += ticks[at]) <= wanted)
        at++;
    return (double)(at * TICK_NS) / 1e6;
}

static void report(double took, struct cpu cpu)
{
    if (!counted)
        fail("nothing was said in the measured time");
    printf("{\"said\": %u, \"messages\": %llu, \"seconds\": %.6f, \"rate\": %.3f, ", sent,
           (unsigned long long)delivered_in_time, took, (double)delivered_in_time / took);
    print_cpu(cpu, took);
    printf("\"samples\": %llu, \"p50_ms\": %.2f, \"p99_ms\": %.2f, \"max_ms\": %.2f}\n", (unsigned long long)counted,
           percentile_ms(0.5), percentile_ms(0.99), (double)worst_ns / 1e6);
    fflush(stdout);
}

/* Milliseconds until something is due to be said, rounded up, and at most 20. */
static int pause_ms(void)
{
    uint64_t now = now_ns(), due = begin_ns ? due_ns(sent) : 0;
    if (!begin_ns || due >= until_ns)
        return 20;
    uint64_t left = due > now ? (due - now + 999999) / 1000000 : 0;
    return left < 20 ? (int)left : 20;
}

static void run(void)
{
    struct epoll_event events[256];
    struct cpu cpu = {0};
    double took = 0;
    uint64_t measured_from = 0;
    last_progress = now_ns();
    join_more();
    while (!took || due_ns(sent) < until_ns || delivered < (uint64_t)sent * connections) {
        say_what_is_due();
        int count = epoll_wait(poller, events, 256, pause_ms());
        if (count < 0 && errno != EINTR)
            fail("epoll_wait: %s", strerror(errno));
        for (int i = 0; i < count; i++) {
            on_event(events[i].data.ptr, events[i].events);
            say_what_is_due();
        }
        uint64_t now = now_ns();
        if (now - last_progress > STALL_NS)
            fail("stalled: %u of %u members in the room, %llu of %llu deliveries, then nothing for 15 s", present,
                 connections, (unsigned long long)delivered, (unsigned long long)sent * connections);
        if (!begin_ns && present == connections) {
            begin_ns = now + (uint64_t)(settle * 1e9);
            from_ns = begin_ns + (uint64_t)(warmup * 1e9);
            until_ns = from_ns + (uint64_t)(seconds * 1e9);
        } else if (begin_ns && !measured_from && now >= from_ns) {
            measured_from = now;
            cpu_start();
        } else if (measured_from && !took && now >= until_ns) {
            took = (double)(now - measured_from) / 1e9;
            cpu = cpu_since_start();
        }
    }
    report(took, cpu);
}

int main(int argc, char **argv)
{
    const char *value;
    if (argc < 2)
        fail("usage: chat PORT [name=value ...]");
    port = atoi(argv[1]);
    for (int i = 2; i < argc; i++) {
        if (is("period", argv[i], &value)) period = atof(value); /* seconds between two messages of a member */
        else if (!common_option(argv[i])) fail("unknown option %s", argv[i]);
    }
    check_common_options();
    if (!(period > 0))
        fail("the period is not above 0");
    load_messages();
    for (uint32_t i = 0; i < message_count; i++)
        for (uint32_t j = 0; j < plain_len[i]; j++)
            if (plain[i][j] < ' ' || plain[i][j] > '~' || plain[i][j] == '"' || plain[i][j] == '\\')
                fail("a text that JSON would escape");
    load_keys();
    members = allocate(connections, sizeof *members);
    ticks = allocate(MAX_TICKS, sizeof *ticks);
    poller = epoll_create1(EPOLL_CLOEXEC);
    run();
    return 0;
}
