/* A client of the soak over libpq, which knows nothing of vianet: `soak CONNINFO CLIENT SEED PAUSE` inserts rows with ids of its own and
 * moves money between accounts, pauses up to PAUSE ms between, and says what it knows of each, until its input ends. One line each:
 *   session                                one is ready
 *   ledger ID acked|refused|unknown        a row
 *   looked ID COUNT                        how many there were of an unknown one when the next session looked: so many there are
 *   transfer ID acked|refused|unknown      two legs of the bank
 *   broke SQLSTATE MESSAGE                 the session is over; the next one is begun
 *   failed SQLSTATE MESSAGE                the server says so, and the session goes on
 *   wrong MESSAGE                          what must never be
 * A refused one must not have happened, an unknown one may have. */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* As libpq-fe.h has them: its package would be needed for these lines alone. */
typedef struct pg_conn PGconn;
typedef struct pg_result PGresult;
typedef struct pg_cancel PGcancel;
PGconn *PQconnectdb(const char *conninfo);
void PQfinish(PGconn *conn);
int PQstatus(const PGconn *conn);
int PQtransactionStatus(const PGconn *conn);
char *PQerrorMessage(const PGconn *conn);
int PQsendQuery(PGconn *conn, const char *query);
int PQsendPrepare(PGconn *conn, const char *name, const char *query, int n, const void *types);
int PQsendQueryPrepared(PGconn *conn, const char *name, int n, const char *const *values, const int *lengths,
                        const int *formats, int format);
int PQsendQueryParams(PGconn *conn, const char *command, int n, const void *types, const char *const *values,
                      const int *lengths, const int *formats, int format);
PGresult *PQgetResult(PGconn *conn);
int PQresultStatus(const PGresult *res);
char *PQresultErrorField(const PGresult *res, int field);
char *PQcmdStatus(PGresult *res);
int PQntuples(const PGresult *res);
char *PQgetvalue(const PGresult *res, int row, int column);
void PQclear(PGresult *res);
PGcancel *PQgetCancel(PGconn *conn);
void PQfreeCancel(PGcancel *cancel);
int PQcancel(PGcancel *cancel, char *text, int size);
typedef void (*PQnoticeProcessor)(void *arg, const char *message);
PQnoticeProcessor PQsetNoticeProcessor(PGconn *conn, PQnoticeProcessor processor, void *arg);
int PQputCopyData(PGconn *conn, const char *data, int size);
int PQputCopyEnd(PGconn *conn, const char *error);
int PQenterPipelineMode(PGconn *conn);
int PQexitPipelineMode(PGconn *conn);
int PQpipelineSync(PGconn *conn);
enum { CONNECTION_OK = 0, PGRES_COMMAND_OK = 1, PGRES_TUPLES_OK = 2, PGRES_COPY_IN = 4, PGRES_PIPELINE_SYNC = 10, PGRES_PIPELINE_ABORTED = 11 };

#define CANARY                                                                                                         \
    "pg_catalog.concat_ws('|', pg_catalog.current_setting('search_path'), pg_catalog.current_setting('TimeZone'), "    \
    "pg_catalog.current_setting('app.tenant', true), pg_catalog.current_setting('role'))"
#define INSERT "insert into public.ledger values ($1) returning " CANARY

static const char *const ZONES[] = {"Asia/Kathmandu", "America/St_Johns", "UTC", "Pacific/Chatham"};

static PGconn *conn;
static int client, tenant, role, warned, may_be_cancelled, broken = 1;
static long long next_id, doubted;
static unsigned long long state;

/* What came of the last request. */
static struct {
    int ok, lost;
    char code[6], tag[64], value[512], text[1024];
} last;

enum outcome { ACKED, REFUSED, UNKNOWN };
static const char *const OUTCOMES[] = {"acked", "refused", "unknown"};

static unsigned below(unsigned n) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return (unsigned)(state >> 33) % n;
}

static void pause_below(unsigned ms) { usleep(below(ms * 1000 + 1)); }

static void say(const char *what, const char *code, const char *text) {
    printf("%s %s ", what, code);
    for (; *text; text++) putchar(*text == '\n' ? ' ' : *text);
    printf("\n");
    fflush(stdout);
}

static void wrong(const char *text) {
    char all[2048];
    snprintf(all, sizeof all, "client %d: %s: %s %s %s", client, text, last.code, last.value, last.text);
    say("wrong", "-", all);
}

static void notice(void *arg, const char *message) {
    (void)arg;
    if (strstr(message, "synchronous replication")) warned = 1;
}

static void note(PGresult *res) {
    int status = PQresultStatus(res);
    if (status == PGRES_COMMAND_OK || status == PGRES_TUPLES_OK || status == PGRES_COPY_IN) {
        snprintf(last.tag, sizeof last.tag, "%s", PQcmdStatus(res));
        if (PQntuples(res) > 0) snprintf(last.value, sizeof last.value, "%s", PQgetvalue(res, 0, 0));
    } else if (last.ok) {
        const char *code = PQresultErrorField(res, 'C');
        const char *text = PQresultErrorField(res, 'M'), *detail = PQresultErrorField(res, 'D');
        last.ok = 0;
        snprintf(last.code, sizeof last.code, "%s", code ? code : "-");
        snprintf(last.text, sizeof last.text, "%s %s", text ? text : PQerrorMessage(conn), detail ? detail : "");
    }
}

static void begin_result(int sent) {
    memset(&last, 0, sizeof last);
    last.ok = sent;
}

static void end_result(void);

/* Takes what a request gave: the first error, else the last result. */
static void take(int sent) {
    PGresult *res;
    begin_result(sent != 0);
    while (sent && (res = PQgetResult(conn)) != NULL) {
        int copies = PQresultStatus(res) == PGRES_COPY_IN;
        note(res);
        PQclear(res);
        if (copies || PQstatus(conn) != CONNECTION_OK) break;
    }
    end_result();
}

static void end_result(void) {
    if (!last.ok && !last.code[0]) {
        snprintf(last.code, sizeof last.code, "-");
        snprintf(last.text, sizeof last.text, "%s", PQerrorMessage(conn));
    }
    /* libpq tells of a failed write, and leaves the connection as it is until it reads the end. */
    last.lost = PQstatus(conn) != CONNECTION_OK || strcmp(last.code, "-") == 0;
    if (last.lost) broken = 1;
    if (strcmp(last.code, "57014") == 0 && may_be_cancelled == 0) wrong("cancelled, and nobody has asked for that");
    if (may_be_cancelled > 0) may_be_cancelled--;
    if (last.lost) say("broke", last.code[0] ? last.code : "-", last.text);
    else if (!last.ok) say("failed", last.code, last.text);
}

static void simple(const char *sql) { take(PQsendQuery(conn, sql)); }

/* What the last request's answer says of it, if it was the one that commits. */
static enum outcome judge(void) {
    int ours = strstr(last.text, "the server was lost") != NULL;
    if (last.ok) return warned ? UNKNOWN : ACKED;
    if (strcmp(last.code, "08007") == 0) return UNKNOWN;
    if (!last.lost) return REFUSED;
    return ours && (strcmp(last.code, "57P01") == 0 || strcmp(last.code, "08006") == 0) ? REFUSED : UNKNOWN;
}

static void tell(const char *what, long long id, enum outcome outcome) {
    char number[40];
    snprintf(number, sizeof number, "%lld", id);
    say(what, number, OUTCOMES[outcome]);
}

/* Of one row, whose client looks for it before it does anything else. */
static void tell_one(long long id, enum outcome outcome) {
    if (outcome == UNKNOWN && last.lost) doubted = id;
    tell("ledger", id, outcome);
}

static void look_for_doubted(void) {
    char sql[200], number[40];
    snprintf(sql, sizeof sql, "select pg_catalog.count(*) from public.ledger where id = %lld", doubted);
    simple(sql);
    if (!last.ok) return;
    snprintf(number, sizeof number, "%lld", doubted);
    say("looked", number, last.value);
    doubted = 0;
}

static void check_canary(void) {
    char expected[512], text[1200];
    snprintf(expected, sizeof expected, "public, s%d|%s|%d|%s", client, ZONES[client % 4], tenant, role ? "app" : "none");
    if (last.ok && strcmp(expected, last.value) != 0) {
        snprintf(text, sizeof text, "settings: expected %s, found %s", expected, last.value);
        wrong(text);
    }
}

static int connect_and_set(const char *info) {
    char sql[512];
    PQfinish(conn);
    conn = PQconnectdb(info);
    if (PQstatus(conn) != CONNECTION_OK) {
        say("refused", "-", PQerrorMessage(conn));
        PQfinish(conn);
        conn = NULL;
        return usleep(50000), 0;
    }
    PQsetNoticeProcessor(conn, notice, NULL);
    may_be_cancelled = broken = 0;
    snprintf(sql, sizeof sql, "set search_path = public, s%d; set timezone = '%s'; set app.tenant = '%d'%s", client, ZONES[client % 4],
             tenant, role ? "; set role app" : "");
    simple(sql);
    if (last.ok) take(PQsendPrepare(conn, "insert", INSERT, 0, NULL));
    if (last.ok) say("session", "-", "");
    broken = !last.ok;
    return last.ok;
}

/* One row, by one of the ways in which libpq sends a statement. */
static void insert(void) {
    char sql[1024], number[40];
    const char *value = number;
    long long id = ++next_id;
    snprintf(number, sizeof number, "%lld", id);
    warned = 0;
    switch (below(4)) {
    case 0: take(PQsendQueryPrepared(conn, "insert", 1, &value, NULL, NULL, 0)); break;
    case 1: take(PQsendQueryParams(conn, INSERT, 1, NULL, &value, NULL, NULL, 0)); break;
    default:
        snprintf(sql, sizeof sql, "insert into public.ledger values (%lld) returning " CANARY, id);
        simple(sql);
    }
    check_canary();
    tell_one(id, judge());
}

/* One that takes long, whatever happens to its client. */
static void slow(void) {
    char sql[1024];
    long long id = ++next_id;
    warned = 0;
    snprintf(sql, sizeof sql, "insert into public.ledger select %lld from pg_catalog.pg_sleep(%u.%u) returning " CANARY, id, below(3),
             below(10));
    simple(sql);
    check_canary();
    tell_one(id, judge());
}

/* Several rows, all or none. */
static void copy(void) {
    char line[64];
    long long first = next_id + 1;
    int count = 1 + (int)below(5);
    next_id += count;
    warned = 0;
    enum outcome outcome = REFUSED;
    simple("copy public.ledger (id) from stdin");
    if (last.ok) {
        for (int i = 0; i < count; i++) {
            snprintf(line, sizeof line, "%lld\n", first + i);
            PQputCopyData(conn, line, (int)strlen(line));
            pause_below(below(4) ? 0 : 30);
        }
        take(PQputCopyEnd(conn, NULL) == 1);
        outcome = judge();
    }
    for (int i = 0; i < count; i++) tell("ledger", first + i, outcome);
}

/* Several at once, each for itself or all together. */
static void pipeline(void) {
    char numbers[4][40];
    enum outcome outcomes[4];
    long long first = next_id + 1;
    int count = 2 + (int)below(3), together = (int)below(2), syncs = together ? 1 : count, sent = 1;
    next_id += count;
    warned = 0;
    PQenterPipelineMode(conn);
    for (int i = 0; i < count; i++) {
        const char *value = numbers[i];
        snprintf(numbers[i], sizeof numbers[i], "%lld", first + i);
        sent &= PQsendQueryParams(conn, INSERT, 1, NULL, &value, NULL, NULL, 0);
        if (!together || i == count - 1) sent &= PQpipelineSync(conn);
        outcomes[i] = UNKNOWN;
    }
    begin_result(sent);
    /* NULL stands between the requests. */
    int done = 0, synced = 0, answered = 0;
    for (int nulls = 0; sent && nulls < 2 && synced < syncs && PQstatus(conn) == CONNECTION_OK;) {
        PGresult *res = PQgetResult(conn);
        if (!res) {
            nulls++;
            continue;
        }
        nulls = 0;
        int status = PQresultStatus(res);
        if (status == PGRES_PIPELINE_SYNC) {
            synced++;
            /* What was run together is committed together. */
            for (int i = answered; i < done; i++) outcomes[i] = last.ok && !warned ? ACKED : last.ok ? UNKNOWN : REFUSED;
            answered = done;
            if (!last.ok) end_result();
            begin_result(1);
        } else {
            if (status != PGRES_PIPELINE_ABORTED) note(res);
            if (last.ok) check_canary();
            done++;
        }
        PQclear(res);
    }
    if (synced < syncs && last.ok) begin_result(0);
    end_result();
    if (last.lost && judge() == REFUSED)
        for (int i = answered; i < count; i++) outcomes[i] = REFUSED;
    if (!last.lost && !PQexitPipelineMode(conn)) wrong("the pipeline does not end");
    for (int i = 0; i < count; i++) tell("ledger", first + i, outcomes[i]);
}

/* One that takes a while, and is cancelled somewhere in it. */
static void cancelled(void) {
    char sql[1024], text[256];
    long long id = ++next_id;
    warned = 0;
    snprintf(sql, sizeof sql, "insert into public.ledger select %lld from pg_catalog.pg_sleep(0.03) returning " CANARY, id);
    int sent = PQsendQuery(conn, sql);
    pause_below(45);
    PGcancel *cancel = PQgetCancel(conn);
    may_be_cancelled = 4;
    if (cancel) PQcancel(cancel, text, sizeof text);
    PQfreeCancel(cancel);
    take(sent);
    check_canary();
    tell_one(id, judge());
}

/* From one account to another, all or nothing. A careless program goes on after an error, up to its COMMIT. */
static void transfer(void) {
    char sql[1024];
    long long id = ++next_id;
    int from = 1 + (int)below(20), to = 1 + (int)below(20), amount = 1 + (int)below(100), careless = below(2);
    const char *const format[] = {"update public.accounts set balance = balance - %3$d where id = %1$d",
                                  "insert into public.legs values (%4$lld, %1$d, -%3$d)",
                                  "update public.accounts set balance = balance + %3$d where id = %2$d",
                                  "insert into public.legs values (%4$lld, %2$d, %3$d)"};
    warned = 0;
    simple("begin");
    int failed = !last.ok;
    for (int i = 0; i < 4 && !last.lost && (careless || !failed); i++) {
        pause_below(below(4) ? 0 : 30);
        snprintf(sql, sizeof sql, format[i], from, to, amount, id);
        simple(sql);
        failed |= !last.ok;
    }
    if (last.lost) {
        tell("transfer", id, REFUSED);
        return;
    }
    if (failed && !careless) {
        simple("rollback");
        tell("transfer", id, REFUSED);
        return;
    }
    simple("commit");
    enum outcome outcome = judge();
    if (outcome == ACKED && strcmp(last.tag, "COMMIT") != 0) outcome = REFUSED;
    if (outcome == ACKED && failed) wrong("committed after an error");
    tell("transfer", id, outcome);
}

static void change_settings(void) {
    char sql[256];
    int new_tenant = (int)below(1000000);
    snprintf(sql, sizeof sql, "set app.tenant = '%d'", new_tenant);
    if (below(2)) {
        simple("begin");
        if (last.ok) simple(sql);
        if (last.ok) simple("rollback");
    } else {
        simple(sql);
        if (last.ok) tenant = new_tenant;
        else if (!last.lost) wrong("a setting could not be set");
    }
    if (!last.lost && PQtransactionStatus(conn) != 0) simple("rollback");
}

int main(int argc, char **argv) {
    struct pollfd in = {.fd = 0, .events = POLLIN};
    if (argc != 5) return 2;
    client = atoi(argv[2]);
    next_id = client * 1000000000LL;
    state = strtoull(argv[3], NULL, 10) * 2654435761u + (unsigned)client + 1;
    tenant = client * 10, role = client % 2;
    unsigned pause = (unsigned)atoi(argv[4]);
    for (int i = 0; i < 10; i++) below(2);
    while (poll(&in, 1, 0) == 0) {
        if (broken) {
            if (connect_and_set(argv[1]) && doubted) look_for_doubted();
            continue;
        }
        switch (below(13)) {
        case 0: change_settings(); break;
        case 1: cancelled(); break;
        case 10: copy(); break;
        case 11: pipeline(); break;
        case 12: if (below(4) == 0) slow(); break;
        case 2: case 3: case 4: transfer(); break;
        default: insert();
        }
        pause_below(below(3) ? pause : 3);
    }
    PQfinish(conn);
    return 0;
}
