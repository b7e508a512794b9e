/* A libpq program that knows nothing of vianet: `libpq CONNINFO` runs each line of its input as a statement and says what
 * came of it: `ok VALUE`, `failed MESSAGE`, or `lost` where the connection is gone. Then the next line connects again, by
 * the same words. */
#include <stdio.h>
#include <string.h>

/* As libpq-fe.h has them: its package would be needed for these lines alone. */
typedef struct pg_conn PGconn;
typedef struct pg_result PGresult;
PGconn *PQconnectdb(const char *conninfo);
void PQfinish(PGconn *conn);
int PQstatus(const PGconn *conn);
char *PQerrorMessage(const PGconn *conn);
PGresult *PQexec(PGconn *conn, const char *query);
int PQresultStatus(const PGresult *res);
int PQntuples(const PGresult *res);
char *PQgetvalue(const PGresult *res, int row, int column);
void PQclear(PGresult *res);
enum { CONNECTION_OK = 0, PGRES_COMMAND_OK = 1, PGRES_TUPLES_OK = 2 };

static void say(const char *what, const char *text) {
    printf("%s ", what);
    for (; *text; text++) putchar(*text == '\n' ? ' ' : *text);
    printf("\n");
    fflush(stdout);
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
        PGresult *res = PQexec(conn, line);
        int status = PQresultStatus(res);
        if (status == PGRES_TUPLES_OK && PQntuples(res) == 1)
            say("ok", PQgetvalue(res, 0, 0));
        else if (status == PGRES_COMMAND_OK)
            say("ok", "");
        else if (PQstatus(conn) != CONNECTION_OK)
            say("lost", PQerrorMessage(conn));
        else
            say("failed", PQerrorMessage(conn));
        PQclear(res);
        if (PQstatus(conn) != CONNECTION_OK) {
            PQfinish(conn);
            conn = NULL;
        }
    }
    PQfinish(conn);
    return 0;
}
