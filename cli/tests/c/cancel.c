/* What psql does at Ctrl-C, often: `cancel CONNINFO COUNT` cancels its own statements from inside a signal handler, which
 * interrupts whatever the program is in, and ends with `done CANCELS ANSWERS CANCELED` when COUNT were sent. The timer stands for
 * the user: SIGALRM comes anywhere, as SIGINT does. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>

/* As libpq-fe.h has them: its package would be needed for these lines alone. */
typedef struct pg_conn PGconn;
typedef struct pg_result PGresult;
typedef struct pg_cancel PGcancel;
PGconn *PQconnectdb(const char *conninfo);
int PQstatus(const PGconn *conn);
char *PQerrorMessage(const PGconn *conn);
PGresult *PQexec(PGconn *conn, const char *query);
int PQresultStatus(const PGresult *res);
char *PQresultErrorField(const PGresult *res, int field);
char *PQgetvalue(const PGresult *res, int row, int column);
void PQclear(PGresult *res);
PGcancel *PQgetCancel(PGconn *conn);
int PQcancel(PGcancel *cancel, char *error, int size);
void PQfinish(PGconn *conn);
enum { CONNECTION_OK = 0, PGRES_TUPLES_OK = 2 };

static PGcancel *cancel;
static volatile sig_atomic_t sent, refused;
static char why[256];

static void again(void) {
    static unsigned random = 1;
    random = random * 1103515245 + 12345;
    struct itimerval in = {.it_value.tv_usec = 1 + random / 65536 % 3000};
    setitimer(ITIMER_REAL, &in, NULL);
}

static void on_signal(int number) {
    int before = errno;
    (void)number;
    if (PQcancel(cancel, why, sizeof why))
        sent++;
    else
        refused++;
    again();
    errno = before;
}

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    PGconn *conn = PQconnectdb(argv[1]);
    if (PQstatus(conn) != CONNECTION_OK) {
        printf("not connected: %s\n", PQerrorMessage(conn));
        return 1;
    }
    cancel = PQgetCancel(conn);
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigaction(SIGALRM, &action, NULL);
    again();
    int answers = 0, canceled = 0;
    for (int i = 0; sent < atoi(argv[2]); i++) {
        char query[200], expected[20];
        /* The handler may interrupt the program's own malloc too. */
        for (int k = 0; k < 3000; k++) {
            void *volatile p = malloc(1500 + k % 9000), *volatile q = malloc(3000);
            free(p);
            free(q);
        }
        /* Little, much, and something to wait for, in turns. */
        const char *more[] = {"", ", repeat('x', 300000)", " from pg_sleep(0.02)"};
        snprintf(query, sizeof query, "select %d%s", i, more[i % 3]);
        snprintf(expected, sizeof expected, "%d", i);
        PGresult *res = PQexec(conn, query);
        const char *state = PQresultErrorField(res, 'C');
        if (PQresultStatus(res) == PGRES_TUPLES_OK && strcmp(PQgetvalue(res, 0, 0), expected) == 0)
            answers++;
        else if (state && strcmp(state, "57014") == 0)
            canceled++;
        else {
            printf("after %d cancels: %s\n", (int)sent, PQerrorMessage(conn));
            return 1;
        }
        PQclear(res);
    }
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, NULL);
    printf("done %d %d %d %d %s\n", (int)sent, answers, canceled, (int)refused, why);
    PQfinish(conn);
    return 0;
}
