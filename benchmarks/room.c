/* The load generator of the program benchmarks/backplane.py: a room whose members are spread over several servers.
 *
 *     room PORT[,PORT ...] hello=TEXT ready=TEXT say=TEXT [name=value ...]
 *
 * It knows nothing of the servers' protocols: `hello` is what a member sends first (%u is its number), `ready` stands
 * in the message after which it is in the room, and `say` is what says something (%s is the text). When all members
 * are there, the speakers speak: each keeps `window` of its messages on the way, or with a `pace` all of them
 * together say so many a second, in turn. A text is `~SPEAKER~NUMBER~TIME~` and padding, so every delivery is
 * checked: each member must hear each speaker's messages in their order, all and once; with `order=0` in any order,
 * and the number of all must be right. A delivery is near when its
 * member's server is the speaker's, else far. Errors, the report and the measuring of CPU time are those of load.c.
 */
#include "client.h"

#define MAX_FRAME (1024 * 1024)
#define TICK_NS 10000ull
#define MAX_TICKS (1000 * 1000)     /* 10 s */
#define MAX_PORTS 16
#define TEXT_SIZE 64                /* bytes of what is said */

enum state { CONNECTING, UPGRADING, JOINING, PRESENT };

struct member {
    int fd;
    enum state state;
    uint32_t index;
    uint32_t *next;                 /* the number that comes next from each speaker */
    uint8_t *rest;
    size_t rest_len;
};

struct times { uint32_t *ticks; uint64_t count; };

static const char *ports_text, *hello = "", *ready = "", *say;
static int ports[MAX_PORTS];
static uint32_t port_count, speakers = 2, window = 1;
static int ordered = 1;
static double pace;                 /* messages a second; 0: as `window` lets them */

static struct member *members;
static uint32_t present, joining, *said;
static uint64_t total_said, delivered, delivered_in_time, last_progress;
static uint64_t begin_ns, from_ns, until_ns;
static struct times near, far;
static int poller;
static uint8_t buffer[MAX_FRAME + READ_SIZE];

static int port_of(uint32_t index)
{
    return ports[index % port_count];
}

static void send_text(struct member *m, const char *text, size_t n)
{
    uint8_t frame[4096];
    if (n > sizeof frame - 14)
        fail("a message of %zu bytes is too long for this generator", n);
    size_t length = write_frame(frame, 0x80 | TEXT, (const uint8_t *)text, n);
    if (send(m->fd, frame, length, MSG_NOSIGNAL) != (ssize_t)length)
        fail("member %u cannot say anything", m->index);
}

static void speak(uint32_t speaker)
{
    char text[TEXT_SIZE + 1], message[2048];
    int n = snprintf(text, sizeof text, "~%u~%u~%llu~", speaker, said[speaker]++, (unsigned long long)now_ns());
    memset(text + n, 'x', TEXT_SIZE - (size_t)n);
    text[TEXT_SIZE] = 0;
    const char *at = strstr(say, "%s");
    n = snprintf(message, sizeof message, "%.*s%s%s", (int)(at - say), say, text, at + 2);
    send_text(&members[speaker], message, (size_t)n);
    total_said++;
}

static void count_delivery(struct times *times, uint64_t sent, uint64_t now)
{
    uint64_t at = (now - sent + TICK_NS - 1) / TICK_NS;
    times->ticks[at < MAX_TICKS ? at : MAX_TICKS - 1]++;
    times->count++;
}

static void join_more(void);

static void on_text(struct member *m, char *text, size_t n, uint64_t now)
{
    char *at = memchr(text, '~', n);
    if (!at) {
        if (n == 1 && *text == '2')
            send_text(m, "3", 1);   /* a ping of Engine.IO, and its pong */
        else if (m->state == JOINING && memmem(text, n, ready, strlen(ready)))
            m->state = PRESENT, joining--, present++, last_progress = now, join_more();
        return;
    }
    uint32_t speaker = (uint32_t)strtoul(at + 1, &at, 10);
    uint32_t number = (uint32_t)strtoul(at + 1, &at, 10);
    uint64_t sent = strtoull(at + 1, &at, 10);
    if (*at != '~' || speaker >= speakers)
        fail("member %u heard what nobody said: %.100s", m->index, text);
    uint32_t expected = m->next[speaker]++;
    if (ordered ? number != expected : number >= said[speaker])
        fail("member %u heard message %u of %u, not %u", m->index, number, speaker, expected);
    delivered++;
    last_progress = now;
    if (now >= from_ns && now < until_ns) {
        delivered_in_time++;
        count_delivery(port_of(speaker) == port_of(m->index) ? &near : &far, sent, now);
    }
    if (speaker == m->index && !pace && now < until_ns)
        speak(speaker);
}

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
        if (head[0] == (0x80 | TEXT))
            on_text(m, (char *)p + at + head_len, (size_t)length, now);
        else if (head[0] != (0x80 | PING))
            fail("first byte of a frame is 0x%02x", head[0]);
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
        fail("the server ended member %u: %s", m->index, n ? strerror(errno) : "end of stream");
    uint64_t now = now_ns();
    if (kept)
        memcpy(buffer, m->rest, kept);
    size_t all = kept + (size_t)n;
    buffer[all] = 0;
    if (m->state == UPGRADING) {
        char *end = strstr((char *)buffer, "\r\n\r\n");
        if (!end && all >= HEAD_SIZE)
            fail("the handshake response is too long");
        if (end) {
            char text[512];
            end[2] = 0;
            free(check_response((char *)buffer, m->index, false));
            at = (size_t)((uint8_t *)end + 4 - buffer);
            m->state = JOINING;
            const char *number = strstr(hello, "%u");
            int length = number ? snprintf(text, sizeof text, "%.*s%u%s", (int)(number - hello), hello, m->index,
                                           number + 2)
                                : snprintf(text, sizeof text, "%s", hello);
            if (length)
                send_text(m, text, (size_t)length);
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
        port = port_of(m->index);
        send_request(m->fd, m->index, "");
        m->state = UPGRADING;
        epoll_ctl(poller, EPOLL_CTL_MOD, m->fd, &event);
    }
}

static void join_more(void)
{
    while (present + joining < connections && joining < OPENING) {
        struct member *m = &members[present + joining];
        struct epoll_event event = {.events = EPOLLIN | EPOLLOUT, .data.ptr = m};
        m->index = present + joining++;
        m->next = allocate(speakers, sizeof *m->next);
        port = port_of(m->index);
        m->fd = dial();
        epoll_ctl(poller, EPOLL_CTL_ADD, m->fd, &event);
    }
}

static double percentile_ms(const struct times *times, double share)
{
    uint64_t wanted = (uint64_t)(share * (double)times->count), so_far = 0;
    size_t at = 0;
    while (at < MAX_TICKS - 1 && (so_far += times->ticks[at]) <= wanted)
        at++;
    return (double)(at * TICK_NS) / 1e6;
}

static void print_times(const char *name, const struct times *times)
{
    if (times->count)
        printf("\"%s_p50_ms\": %.2f, \"%s_p99_ms\": %.2f, ", name, percentile_ms(times, 0.5), name,
               percentile_ms(times, 0.99));
}

static void run(void)
{
    struct epoll_event events[256];
    double took = 0;
    uint64_t measured_from = 0, paced = 0;
    struct cpu cpu = {0};
    last_progress = now_ns();
    join_more();
    while (!took || delivered < total_said * connections) {
        int count = epoll_wait(poller, events, 256, pace ? 1 : 20);
        if (count < 0 && errno != EINTR)
            fail("epoll_wait: %s", strerror(errno));
        for (int i = 0; i < count; i++)
            on_event(events[i].data.ptr, events[i].events);
        uint64_t now = now_ns();
        if (now - last_progress > STALL_NS)
            fail("stalled: %u of %u members in the room, %llu of %llu deliveries, then nothing for 15 s", present,
                 connections, (unsigned long long)delivered, (unsigned long long)total_said * connections);
        if (!begin_ns && present == connections) {
            begin_ns = now + (uint64_t)(settle * 1e9);
            from_ns = begin_ns + (uint64_t)(warmup * 1e9);
            until_ns = from_ns + (uint64_t)(seconds * 1e9);
        }
        if (!begin_ns || now < begin_ns)
            continue;
        if (pace)
            while (now < until_ns && paced < (uint64_t)((double)(now - begin_ns) / 1e9 * pace))
                speak((uint32_t)(paced++ % speakers));
        else if (!total_said)
            for (uint32_t i = 0; i < speakers * window; i++)
                speak(i % speakers);
        if (!measured_from && now >= from_ns) {
            measured_from = now;
            cpu_start();
        } else if (measured_from && !took && now >= until_ns) {
            took = (double)(now - measured_from) / 1e9;
            cpu = cpu_since_start();
        }
    }
    printf("{");
    print_cpu(cpu, took);
    print_times("near", &near);
    print_times("far", &far);
    printf("\"said\": %llu, \"rate\": %.3f}\n", (unsigned long long)total_said, (double)delivered_in_time / took);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    const char *value;
    if (argc < 2)
        fail("usage: room PORT[,PORT ...] hello=TEXT ready=TEXT say=TEXT [name=value ...]");
    ports_text = argv[1];
    for (const char *at = ports_text; at && port_count < MAX_PORTS; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL)
        ports[port_count++] = atoi(at);
    for (int i = 2; i < argc; i++) {
        if (is("hello", argv[i], &value)) hello = value;
        else if (is("ready", argv[i], &value)) ready = value;
        else if (is("say", argv[i], &value)) say = value;
        else if (is("speakers", argv[i], &value)) speakers = (uint32_t)atoi(value);
        else if (is("window", argv[i], &value)) window = (uint32_t)atoi(value);
        else if (is("order", argv[i], &value)) ordered = atoi(value);
        else if (is("pace", argv[i], &value)) pace = atof(value);
        else if (!common_option(argv[i])) fail("unknown option %s", argv[i]);
    }
    if (!say || !strstr(say, "%s") || !speakers || speakers > connections || !window || !key_file || !sources)
        fail("say has no %%s, a count is 0 or too high, or a file is missing");
    load_keys();
    members = allocate(connections, sizeof *members);
    said = allocate(speakers, sizeof *said);
    near.ticks = allocate(MAX_TICKS, sizeof *near.ticks);
    far.ticks = allocate(MAX_TICKS, sizeof *far.ticks);
    poller = epoll_create1(EPOLL_CLOEXEC);
    run();
    return 0;
}
