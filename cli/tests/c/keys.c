/* `keys CONNINFO` says by which key its session can be canceled, `key PID SECRET`, and then runs each line of its input as a
 * statement: `ok VALUE`, or `failed SQLSTATE MESSAGE`. `keys HOST PID SECRET` is somebody else who was told the key: it asks to cancel,
 * and says `done` when the server has closed. */
#include <netdb.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* As libpq-fe.h has them: its package would be needed for these lines alone. */
typedef struct pg_conn PGconn;
typedef struct pg_result PGresult;
PGconn *PQconnectStart(const char *conninfo);
int PQconnectPoll(PGconn *conn);
void PQtrace(PGconn *conn, FILE *to);
void PQuntrace(PGconn *conn);
void PQfinish(PGconn *conn);
char *PQerrorMessage(const PGconn *conn);
PGresult *PQexec(PGconn *conn, const char *query);
int PQresultStatus(const PGresult *res);
char *PQresultErrorField(const PGresult *res, int field);
int PQntuples(const PGresult *res);
char *PQgetvalue(const PGresult *res, int row, int column);
void PQclear(PGresult *res);
enum { POLLING_FAILED = 0, POLLING_OK = 3, PGRES_COMMAND_OK = 1, PGRES_TUPLES_OK = 2 };

/* libpq tells nobody the secret but who reads its trace. */
static PGconn *log_in(const char *conninfo) {
    char line[4096];
    int pid = 0, secret = 0, state;
    FILE *trace = tmpfile();
    PGconn *conn = PQconnectStart(conninfo);
    if (!trace || !conn) return NULL;
    PQtrace(conn, trace);
    /* Its socket blocks nobody: it is asked until it is through. */
    while ((state = PQconnectPoll(conn)) != POLLING_OK) {
        if (state == POLLING_FAILED) {
            printf("not connected: %s\n", PQerrorMessage(conn));
            return NULL;
        }
        usleep(1000);
    }
    PQuntrace(conn);
    rewind(trace);
    while (fgets(line, sizeof line, trace)) {
        const char *at = strstr(line, "BackendKeyData");
        if (at) sscanf(at, "BackendKeyData %d %d", &pid, &secret);
    }
    fclose(trace);
    printf("key %d %d\n", pid, secret);
    fflush(stdout);
    return conn;
}

static int cancel(const char *host, int pid, int secret) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
    if (getaddrinfo(host, "5432", &hints, &found) != 0) return 1;
    uint32_t request[4] = {htonl(16), htonl(80877102), htonl((uint32_t)pid), htonl((uint32_t)secret)};
    char answer;
    int fd = socket(found->ai_family, SOCK_STREAM, 0);
    if (connect(fd, found->ai_addr, found->ai_addrlen) != 0) {
        perror("connect");
        return 1;
    }
    if (send(fd, request, sizeof request, 0) != (ssize_t)sizeof request || recv(fd, &answer, 1, 0) != 0) {
        perror("cancel");
        return 1;
    }
    close(fd);
    printf("done\n");
    return 0;
}

int main(int argc, char **argv) {
    char line[4096];
    if (argc == 4) return cancel(argv[1], atoi(argv[2]), atoi(argv[3]));
    if (argc != 2) return 2;
    PGconn *conn = log_in(argv[1]);
    if (!conn) return 1;
    while (fgets(line, sizeof line, stdin)) {
        PGresult *res = PQexec(conn, line);
        int status = PQresultStatus(res);
        const char *code = PQresultErrorField(res, 'C');
        if (status == PGRES_TUPLES_OK && PQntuples(res) == 1)
            printf("ok %s\n", PQgetvalue(res, 0, 0));
        else if (status == PGRES_TUPLES_OK || status == PGRES_COMMAND_OK)
            printf("ok\n");
        else
            printf("failed %s %.*s\n", code ? code : "-", (int)strcspn(PQerrorMessage(conn), "\n"), PQerrorMessage(conn));
        fflush(stdout);
        PQclear(res);
    }
    PQfinish(conn);
    return 0;
}
