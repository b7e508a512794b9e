"""psycopg2 as it comes: every statement opens a transaction, which the program commits."""
import sys
import psycopg2

SETUP = [
    "set search_path = sales, pg_catalog",
    "set timezone = 'Asia/Kathmandu'",
    "set app.tenant = '42'",
    "set role reader",
    # It has no prepared statements of its own.
    "prepare q (int) as select note, current_user, current_setting('search_path'), current_setting('TimeZone'),"
    " current_setting('app.tenant'), (select count(*) from pg_prepared_statements where position('notes' in statement) > 0) from notes where id = $1",
]

connection = None


def connect(password):
    global connection
    connection = psycopg2.connect(host="sales.lab", user="app", dbname="app", password=password)
    for statement in SETUP:
        run(statement)


def run(statement, parameters=None):
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        row = cursor.fetchone() if cursor.description else ()
    connection.commit()
    return row


def ask():
    return "|".join(str(value) for value in run("execute q (%s)", (1,)))


def block():
    with connection.cursor() as cursor:
        cursor.execute("insert into notes values (%s, '42', 'lost')", (2,))
    return "in a block"


def obey(command):
    if command == "ask":
        return ask()
    if command == "block":
        return block()
    if command == "commit":
        return connection.commit()
    if command == "rollback":
        return connection.rollback()
    if command == "sleep":
        # In a block it could not commit.
        connection.autocommit = True
        return run("insert into notes select %s, '42', 'slept' from pg_sleep(600)", (3,))
    connect(command.removeprefix("login "))
    return "open"


for line in sys.stdin:
    try:
        print("ok", obey(line.strip()), flush=True)
    except psycopg2.Error as e:
        state = "closed" if connection.closed else "open"
        print("error", e.pgcode, state, type(e).__name__, str(e).replace("\n", " "), flush=True)
