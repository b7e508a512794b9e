/* A client of bytes that knows nothing of vianet: `raw HOST USER DATABASE` logs in without a password, then runs the lines of its
 * input: `send HEX` sends bytes and says `sent`; `hear` reads up to a ReadyForQuery and says what came: the types of messages, with
 * the code of an error, the tag of a command and the status; `... end` where the stream ended. */
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int fd;

static int all(char *bytes, size_t n) {
    for (size_t done = 0; done < n;) {
        ssize_t m = recv(fd, bytes + done, n - done, 0);
        if (m <= 0) return 0;
        done += (size_t)m;
    }
    return 1;
}

static void hear(void) {
    for (;;) {
        static char body[1 << 20];
        unsigned char head[5];
        if (!all((char *)head, 5)) {
            puts("end");
            return;
        }
        size_t n = ((size_t)head[1] << 24 | (size_t)head[2] << 16 | (size_t)head[3] << 8 | head[4]) - 4;
        if (n >= sizeof body || !all(body, n)) {
            puts("end");
            return;
        }
        body[n] = 0;
        switch (head[0]) {
        case 'N': case 'A': case 'S': continue;
        case 'Z': printf("Z%s\n", body); return;
        case 'C': printf("C%s ", body); break;
        case 'E':
            for (char *field = body; *field; field += strlen(field) + 1)
                if (*field == 'C' || *field == 'V') printf("%s ", *field == 'C' ? field + 1 : field);
            break;
        case 'D': {
            size_t length = ((size_t)(unsigned char)body[4] << 8) | (unsigned char)body[5];
            printf("D%.*s ", length < 100 ? (int)length : 0, body + 6);
            break;
        }
        default: printf("%c ", head[0]);
        }
    }
}

int main(int argc, char **argv) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
    if (argc < 4 || getaddrinfo(argv[1], "5432", &hints, &found) != 0) return 2;
    fd = socket(found->ai_family, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, found->ai_addr, found->ai_addrlen) != 0) return 3;
    char packet[300] = {0, 0, 0, 0, 0, 3, 0, 0};
    int n = 8 + sprintf(packet + 8, "user%c%s%cdatabase%c%s%c", 0, argv[2], 0, 0, argv[3], 0) + 1;
    packet[2] = (char)(n >> 8);
    packet[3] = (char)n;
    if (send(fd, packet, (size_t)n, 0) != n) return 4;
    hear();
    fflush(stdout);
    static char line[1 << 20], bytes[1 << 19];
    while (fgets(line, sizeof line, stdin)) {
        if (strncmp(line, "send ", 5) == 0) {
            size_t m = 0;
            for (char *at = line + 5; sscanf(at, "%2hhx", (unsigned char *)&bytes[m]) == 1; at += 2) m++;
            puts(send(fd, bytes, m, 0) == (ssize_t)m ? "sent" : "lost");
        } else {
            hear();
        }
        fflush(stdout);
    }
    close(fd);
    return 0;
}
