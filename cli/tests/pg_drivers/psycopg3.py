"""psycopg 3 as it comes: every statement opens a transaction, which the program commits; prepared when it was run five times."""
import sys
import psycopg

SETUP = [
    "set search_path = sales, pg_catalog",
    "set timezone = 'Asia/Kathmandu'",
    "set app.tenant = '42'",
    "set role reader",
]
STATE = (
    "select note, current_user, current_setting('search_path'), current_setting('TimeZone'), current_setting('app.tenant'),"
    " (select count(*) from pg_prepared_statements where position('notes' in statement) > 0) from notes where id = %s"
)

connection = None


def connect(password):
    global connection
    connection = psycopg.connect(host="sales.lab", user="app", dbname="app", password=password)
    for statement in SETUP:
        connection.execute(statement)
        connection.commit()
    for _ in range(connection.prepare_threshold + 1):
        ask()


def ask():
    row = connection.execute(STATE, (1,)).fetchone()
    connection.commit()
    return "|".join(str(value) for value in row)


def block():
    connection.execute("insert into notes values (%s, '42', 'lost')", (2,))
    return "in a block"


def sleep():
    # In a block it could not commit.
    connection.autocommit = True
    connection.execute("insert into notes select %s, '42', 'slept' from pg_sleep(600)", (3,))


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
        return sleep()
    connect(command.removeprefix("login "))
    return "open"


for line in sys.stdin:
    try:
        print("ok", obey(line.strip()), flush=True)
    except psycopg.Error as e:
        state = "closed" if connection.closed else "open"
        print("error", e.sqlstate, state, type(e).__name__, str(e).replace("\n", " "), flush=True)
