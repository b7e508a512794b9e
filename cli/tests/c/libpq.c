/* A libpq program that knows nothing of vianet: `libpq CONNINFO` runs each line of its input as a statement and says what
 * came of it: `ok VALUE`, `failed SQLSTATE MESSAGE`, or `lost SQLSTATE MESSAGE` where the connection is gone. Then the next
 * line connects again, by the same words. A statement that asks for data says `copying`; lines are data then, up to `\\.`. */
#include <stdio.h>
#include <string.h>

/* As libpq-fe.h has them: its package would be needed for these lines alone. */
typedef struct pg_conn PGconn;
typedef struct pg_result PGresult;
PGconn *PQconnectdb(const char *conninfo);
void PQfinish(PGconn *conn);
int PQstatus(const PGconn *conn);
char *PQerrorMessage(const PGconn *conn);
int PQsendQuery(PGconn *conn, const char *query);
int PQresultStatus(const PGresult *res);
int PQntuples(const PGresult *res);
char *PQgetvalue(const PGresult *res, int row, int column);
char *PQresultErrorField(const PGresult *res, int field);
PGresult *PQgetResult(PGconn *conn);
int PQputCopyData(PGconn *conn, const char *data, int size);
int PQputCopyEnd(PGconn *conn, const char *error);
int PQflush(PGconn *conn);
int PQsendQueryParams(PGconn *conn, const char *command, int n, const void *types, const char *const *values,
                      const int *lengths, const int *formats, int format);
int PQsendPrepare(PGconn *conn, const char *name, const char *query, int n, const void *types);
int PQsendQueryPrepared(PGconn *conn, const char *name, int n, const char *const *values, const int *lengths,
                        const int *formats, int format);
int PQsendDescribePrepared(PGconn *conn, const char *name);
void PQclear(PGresult *res);
enum { CONNECTION_OK = 0, PGRES_COMMAND_OK = 1, PGRES_TUPLES_OK = 2, PGRES_COPY_IN = 4 };

static void say(const char *what, const char *text);

/* With the SQLSTATE before it, `-` where the server gave none. */
static void say_error(const char *what, const PGconn *conn, const PGresult *res) {
    char whole[8192];
    const char *state = PQresultErrorField(res, 'C');
    snprintf(whole, sizeof whole, "%s %s", state ? state : "-", PQerrorMessage(conn));
    say(what, whole);
}

static void say(const char *what, const char *text) {
    printf("%s ", what);
    for (; *text; text++) putchar(*text == '\n' ? ' ' : *text);
    printf("\n");
    fflush(stdout);
}

/* The first result: PQexec would put the server's last words and the loss of it together, and lose the SQLSTATE. */
static PGresult *results(PGconn *conn) {
    PGresult *first = NULL, *next;
    while ((next = PQgetResult(conn)) != NULL) {
        if (first)
            PQclear(next);
        else
            first = next;
        if (PQresultStatus(first) == PGRES_COPY_IN) break;
    }
    return first;
}

/* `\\prepare NAME QUERY`, `\\execute NAME VALUE`, `\\describe NAME`, `\\params VALUE QUERY`, with `-` for no name; else a simple query. */
static void send(PGconn *conn, char *line) {
    char what[20], word[100];
    int rest = 0;
    if (sscanf(line, "\\%19s %99s %n", what, word, &rest) < 2) {
        PQsendQuery(conn, line);
        return;
    }
    const char *name = strcmp(word, "-") == 0 ? "" : word, *value = line + rest;
    if (strcmp(what, "prepare") == 0)
        PQsendPrepare(conn, name, line + rest, 0, NULL);
    else if (strcmp(what, "execute") == 0)
        PQsendQueryPrepared(conn, name, 1, &value, NULL, NULL, 0);
    else if (strcmp(what, "describe") == 0)
        PQsendDescribePrepared(conn, name);
    else
        PQsendQueryParams(conn, line + rest, 1, NULL, &name, NULL, NULL, 0);
}

int main(int argc, char **argv) {
    char line[4096];
    PGconn *conn = NULL;
    if (argc != 2) return 2;
    while (fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\n")] = 0;
        if (!conn) conn = PQconnectdb(argv[1]);
        if (PQstatus(conn) != CONNECTION_OK) {
            say("failed to connect:", PQerrorMessage(conn));
            PQfinish(conn);
            conn = NULL;
            continue;
        }
        send(conn, line);
        PGresult *res = results(conn);
        if (PQresultStatus(res) == PGRES_COPY_IN) {
            say("copying", "");
            PQclear(res);
            while (fgets(line, sizeof line, stdin) && strcmp(line, "\\.\n") != 0) {
                PQputCopyData(conn, line, (int)strlen(line));
                PQflush(conn);
                say("ok", "");
            }
            PQputCopyEnd(conn, NULL);
            res = results(conn);
        }
        int status = PQresultStatus(res);
        if (status == PGRES_TUPLES_OK && PQntuples(res) == 1)
            say("ok", PQgetvalue(res, 0, 0));
        else if (status == PGRES_COMMAND_OK)
            say("ok", "");
        else if (PQstatus(conn) != CONNECTION_OK)
            say_error("lost", conn, res);
        else
            say_error("failed", conn, res);
        PQclear(res);
        if (PQstatus(conn) != CONNECTION_OK) {
            PQfinish(conn);
            conn = NULL;
        }
    }
    PQfinish(conn);
    return 0;
}
