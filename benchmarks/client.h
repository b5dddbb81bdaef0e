/* What the load generators share: messages and handshake keys from files, the opening of connections, the
 * reading of CPU time, and the options for all of it. Included once by each program (load.c, chat.c).
 *
 * Whatever is wrong ends the program through `fail`: {"error": ...} on standard output and status 1.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#ifndef IP_BIND_ADDRESS_NO_PORT
#define IP_BIND_ADDRESS_NO_PORT 24
#endif

#define READ_SIZE (256 * 1024)
#define HEAD_SIZE 4096              /* bytes of a handshake response, at most */
#define OPENING 64                  /* handshakes in flight while the connections are opened: below any backlog */
#define STALL_NS (15 * 1000000000ull) /* without a reply for so long: the server is stuck or lost a message */

enum opcode { TEXT = 1, BINARY = 2, CLOSE = 8, PING = 9, PONG = 10 };

/* Settings, each with its unit in `common_option`. */
static int port;
static uint32_t connections = 64, sources = 16;
static double seconds = 2, warmup = 0.5, settle = 0;
static const char *path = "/", *payload_file, *key_file;
static int server_pid, server_core = -1, load_core = -1;

/* The messages of the payload file. */
static uint32_t message_count;
static uint8_t **plain;
static uint32_t *plain_len;

static struct { char key[32], accept[32]; } *keys;
static uint32_t key_count;

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static void print_string(const char *text)
{
    putchar('"');
    for (; *text; text++) {
        if (*text == '"' || *text == '\\')
            putchar('\\');
        putchar(*text < 32 || *text > 126 ? '?' : *text);
    }
    putchar('"');
}

static void fail(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));
static void fail(const char *format, ...)
{
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    printf("{\"error\": ");
    print_string(text);
    printf("}\n");
    fflush(stdout);
    _exit(1);
}

static uint32_t random_u32(void)
{
    static uint64_t x = 0x9E3779B97F4A7C15ull;
    x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    return (uint32_t)(x >> 16);
}

static void *allocate(size_t count, size_t size)
{
    void *p = calloc(count ? count : 1, size);
    if (!p)
        fail("out of memory");
    return p;
}

static void *resize(void *p, size_t size)
{
    p = realloc(p, size);
    if (!p)
        fail("out of memory");
    return p;
}

/* -- messages and keys ---------------------------------------------------------------------------------- */

static size_t write_frame(uint8_t *to, uint8_t first, const uint8_t *payload, size_t n)
{
    uint8_t *p = to, key[4];
    uint32_t bits = random_u32();
    memcpy(key, &bits, 4);
    *p++ = first;
    if (n < 126) {
        *p++ = 0x80 | (uint8_t)n;
    } else if (n < 65536) {
        *p++ = 0x80 | 126, *p++ = (uint8_t)(n >> 8), *p++ = (uint8_t)n;
    } else {
        *p++ = 0x80 | 127;
        for (int shift = 56; shift >= 0; shift -= 8)
            *p++ = (uint8_t)((uint64_t)n >> shift);
    }
    memcpy(p, key, 4), p += 4;
    for (size_t i = 0; i < n; i++)
        p[i] = payload[i] ^ key[i & 3];
    return (size_t)(p + n - to);
}

/* The payload file is a run of records: length (32 bits, little-endian), bytes. */
static void __attribute__((unused)) load_messages(void)
{
    FILE *file = fopen(payload_file, "rb");
    uint8_t raw[4];
    size_t room = 0;
    if (!file)
        fail("cannot open the payload file");
    while (fread(raw, 1, 4, file) == 4) {
        uint32_t n = raw[0] | raw[1] << 8 | raw[2] << 16 | (uint32_t)raw[3] << 24;
        if (message_count == room) {
            room = room ? room * 2 : 64;
            plain = resize(plain, room * sizeof *plain);
            plain_len = resize(plain_len, room * sizeof *plain_len);
        }
        plain[message_count] = allocate(n, 1);
        plain_len[message_count] = n;
        if (fread(plain[message_count], 1, n, file) != n)
            fail("the payload file is cut short");
        message_count++;
    }
    fclose(file);
    if (!message_count)
        fail("the payload file is empty");
}

/* The key file has a Sec-WebSocket-Key and the Sec-WebSocket-Accept that answers it on each line. */
static void load_keys(void)
{
    FILE *file = fopen(key_file, "r");
    char key[32], accept[32];
    if (!file)
        fail("cannot open the key file");
    while (fscanf(file, "%31s %31s", key, accept) == 2) {
        keys = resize(keys, (key_count + 1) * sizeof *keys);
        memcpy(keys[key_count].key, key, sizeof key);
        memcpy(keys[key_count++].accept, accept, sizeof accept);
    }
    fclose(file);
    if (!key_count)
        fail("the key file is empty");
}

/* -- opening -------------------------------------------------------------------------------------------- */

/* A socket that is connecting to the server, from the next of the client addresses. */
static int dial(void)
{
    static uint32_t started;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
    if (fd < 0)
        fail("socket: %s", strerror(errno));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)}, from = {.sin_family = AF_INET};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    from.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 + started++ % sources);
    if (bind(fd, (struct sockaddr *)&from, sizeof from) < 0)
        fail("bind: %s", strerror(errno));
    if (connect(fd, (struct sockaddr *)&to, sizeof to) < 0 && errno != EINPROGRESS)
        fail("connect: %s", strerror(errno));
    return fd;
}

/* Ask for the Upgrade on a socket that has just connected; `extra` is more header lines. */
static void send_request(int fd, uint32_t index, const char *extra)
{
    char text[1024];
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error)
        fail("connect: %s", strerror(error));
    int n = snprintf(text, sizeof text,
                     "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                     "Sec-WebSocket-Key: %s\r\nSec-WebSocket-Version: 13\r\n%s\r\n",
                     path, port, keys[index % key_count].key, extra);
    if (send(fd, text, (size_t)n, MSG_NOSIGNAL) != n)
        fail("send of the request: %s", strerror(errno));
}

/* The value of a header field of a response head, to be freed, or NULL. */
static char *header(char *head, const char *name)
{
    size_t n = strlen(name);
    for (char *line = strstr(head, "\r\n"); line && line[2]; line = strstr(line + 2, "\r\n")) {
        if (strncasecmp(line + 2, name, n) == 0 && line[2 + n] == ':') {
            char *value = line + 3 + n;
            value += strspn(value, " \t");
            return strndup(value, strcspn(value, "\r\n"));
        }
    }
    return NULL;
}

/* Check a response head: 101, the right key, an extension if and only if one was offered; return that, or NULL. */
static char *check_response(char *head, uint32_t index, bool offered)
{
    if (strncmp(head, "HTTP/1.1 101", 12) != 0)
        fail("the handshake was answered with: %.60s", head);
    char *accept = header(head, "Sec-WebSocket-Accept");
    if (!accept || strcmp(accept, keys[index % key_count].accept) != 0)
        fail("wrong Sec-WebSocket-Accept");
    free(accept);
    char *agreed = header(head, "Sec-WebSocket-Extensions");
    if (!agreed != !offered)
        fail(offered ? "permessage-deflate was declined" : "an extension that was not offered: %.100s", agreed);
    return agreed;
}

/* -- CPU time ------------------------------------------------------------------------------------------- */

/* CPU seconds of this process, and of the server (0 when unknown). */
static double own_cpu(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + 1e-6 * (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

static double server_cpu(void)
{
    char name[64], text[1024];
    unsigned long user = 0, system = 0;
    if (!server_pid)
        return 0;
    snprintf(name, sizeof name, "/proc/%d/stat", server_pid);
    FILE *file = fopen(name, "r");
    if (!file)
        return 0;
    size_t n = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[n] = 0;
    char *after = strrchr(text, ')');
    if (after)
        sscanf(after + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system);
    return (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
}

/* CPU seconds that one core spent on any process, or that the hypervisor took (/proc/stat); 0 when unknown. */
static double core_busy(int core)
{
    char line[512], name[32];
    unsigned long long user = 0, nice = 0, system = 0, idle, iowait, irq, softirq, steal = 0;
    int length = snprintf(name, sizeof name, "cpu%d ", core);
    FILE *file = core >= 0 ? fopen("/proc/stat", "r") : NULL;
    if (!file)
        return 0;
    while (fgets(line, sizeof line, file))
        if (strncmp(line, name, (size_t)length) == 0)
            sscanf(line + length, "%llu %llu %llu %llu %llu %llu %llu %llu", &user, &nice, &system, &idle, &iowait,
                   &irq, &softirq, &steal);
    fclose(file);
    return (double)(user + nice + system + steal) / (double)sysconf(_SC_CLK_TCK);
}

static double both_busy(void)
{
    return core_busy(server_core) + (load_core == server_core ? 0 : core_busy(load_core));
}

/* CPU seconds over a measured window: taken at its beginning, read at its end. */
static struct cpu { double client, server, busy; } cpu_begin;

static void cpu_start(void)
{
    cpu_begin = (struct cpu){own_cpu(), server_cpu(), both_busy()};
}

static struct cpu cpu_since_start(void)
{
    return (struct cpu){own_cpu() - cpu_begin.client, server_cpu() - cpu_begin.server, both_busy() - cpu_begin.busy};
}

/* The shares of a core, as members of the report's JSON object: the generator's, the server's, anybody else's. */
static void print_cpu(struct cpu cpu, double took)
{
    printf("\"client_cpu\": %.4f, ", cpu.client / took);
    if (server_pid)
        printf("\"server_cpu\": %.4f, ", cpu.server / took);
    if (server_core >= 0 && load_core >= 0)
        printf("\"others_cpu\": %.4f, ", (cpu.busy - cpu.client - cpu.server) / took);
}

/* -- options -------------------------------------------------------------------------------------------- */

static bool is(const char *name, const char *argument, const char **value)
{
    size_t n = strlen(name);
    if (strncmp(name, argument, n) != 0 || argument[n] != '=')
        return false;
    *value = argument + n + 1;
    return true;
}

/* Take an option that every generator has; false when it is none of them. */
static bool common_option(const char *argument)
{
    const char *value;
    if (is("connections", argument, &value)) connections = (uint32_t)atoi(value);
    else if (is("seconds", argument, &value)) seconds = atof(value);
    else if (is("warmup", argument, &value)) warmup = atof(value);             /* seconds */
    else if (is("settle", argument, &value)) settle = atof(value);             /* seconds, after the opening */
    else if (is("sources", argument, &value)) sources = (uint32_t)atoi(value); /* client addresses */
    else if (is("path", argument, &value)) path = value;
    else if (is("payloads", argument, &value)) payload_file = value;
    else if (is("keys", argument, &value)) key_file = value;
    else if (is("pid", argument, &value)) server_pid = atoi(value);
    else if (is("server_core", argument, &value)) server_core = atoi(value);
    else if (is("load_core", argument, &value)) load_core = atoi(value);
    else return false;
    return true;
}

static void __attribute__((unused)) check_common_options(void)
{
    if (!connections || !sources || sources > 250 || !payload_file || !key_file)
        fail("a count is 0, or a file is missing");
}
