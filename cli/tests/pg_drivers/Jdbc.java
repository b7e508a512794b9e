import java.io.*;
import java.sql.*;
import java.util.*;

/** pgjdbc, with a statement that it prepares on the server when it was run five times; autocommit but in a block. */
public class Jdbc {
    static final String[] SETUP = {
        "set search_path = sales, pg_catalog",
        "set timezone = 'Asia/Kathmandu'",
        "set app.tenant = '42'",
        "set role reader",
    };
    static final String STATE =
        "select note, current_user, current_setting('search_path'), current_setting('TimeZone'), current_setting('app.tenant'),"
            + " (select count(*) from pg_prepared_statements where position('notes' in statement) > 0) from notes where id = ?";

    static Connection connection;
    static PreparedStatement state;

    static String connect(String password) throws SQLException {
        connection = DriverManager.getConnection("jdbc:postgresql://sales.lab/app", "app", password);
        for (String statement : SETUP) {
            try (Statement s = connection.createStatement()) {
                s.execute(statement);
            }
        }
        state = connection.prepareStatement(STATE);
        for (int i = 0; i < 6; i++) {
            ask();
        }
        return "open";
    }

    static String ask() throws SQLException {
        state.setInt(1, 1);
        try (ResultSet rows = state.executeQuery()) {
            rows.next();
            StringJoiner values = new StringJoiner("|");
            for (int i = 1; i <= 6; i++) {
                values.add(rows.getString(i));
            }
            return values.toString();
        }
    }

    static void insert(String text, int id) throws SQLException {
        try (PreparedStatement insert = connection.prepareStatement(text)) {
            insert.setInt(1, id);
            insert.executeUpdate();
        }
    }

    static String obey(String command) throws SQLException {
        switch (command) {
            case "ask":
                return ask();
            case "block":
                connection.setAutoCommit(false);
                insert("insert into notes values (?, '42', 'lost')", 2);
                return "in a block";
            case "commit":
                connection.commit();
                connection.setAutoCommit(true);
                return "None";
            case "rollback":
                connection.rollback();
                connection.setAutoCommit(true);
                return "None";
            case "sleep":
                insert("insert into notes select ?, '42', 'slept' from pg_sleep(600)", 3);
                return "slept";
            default:
                return connect(command.replace("login ", ""));
        }
    }

    public static void main(String[] arguments) throws Exception {
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            try {
                System.out.println("ok " + obey(line.trim()));
            } catch (SQLException e) {
                String open = connection == null || connection.isClosed() ? "closed" : "open";
                String text = e.getMessage().replace('\n', ' ');
                System.out.println("error " + e.getSQLState() + " " + open + " " + e.getClass().getSimpleName() + " " + text);
            }
        }
    }
}
