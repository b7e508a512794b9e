"""psqlODBC through pyodbc. Prepared on the server (UseServerSidePrepare, the default), autocommit but in a block."""
import sys
import pyodbc

SETUP = [
    "set search_path = sales, pg_catalog",
    "set timezone = 'Asia/Kathmandu'",
    "set app.tenant = '42'",
    "set role reader",
]
STATE = (
    "select note, current_user, current_setting('search_path'), current_setting('TimeZone'), current_setting('app.tenant'),"
    " (select count(*) from pg_prepared_statements where position('notes' in statement) > 0) from notes where id = ?"
)

pyodbc.pooling = False
connection = cursor = None


def connect(password):
    global connection, cursor
    connection = pyodbc.connect(
        "DRIVER={PostgreSQL Unicode};SERVER=sales.lab;UID=app;DATABASE=app;UseServerSidePrepare=1;PWD=" + password, autocommit=True
    )
    for statement in SETUP:
        connection.execute(statement)
    # Prepared once, as long as the cursor is used for the same statement.
    cursor = connection.cursor()
    for _ in range(3):
        ask()


def ask():
    row = cursor.execute(STATE, 1).fetchone()
    return "|".join(str(value) for value in row)


def block():
    connection.autocommit = False
    # With a parameter it would be prepared, which a rollback does not undo.
    connection.execute("insert into notes values (2, '42', 'lost')")
    return "in a block"


def end(how):
    how()
    connection.autocommit = True


def obey(command):
    if command == "ask":
        return ask()
    if command == "block":
        return block()
    if command == "commit":
        return end(connection.commit)
    if command == "rollback":
        return end(connection.rollback)
    if command == "sleep":
        return connection.execute("insert into notes select ?, '42', 'slept' from pg_sleep(600)", 3)
    connect(command.removeprefix("login "))
    return "open"


for line in sys.stdin:
    try:
        print("ok", obey(line.strip()), flush=True)
    except pyodbc.Error as e:
        print("error", e.args[0], "-", type(e).__name__, str(e).replace("\n", " "), flush=True)
