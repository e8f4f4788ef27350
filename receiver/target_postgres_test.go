package receiver

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/staffetta-relay/staffetta"
	"github.com/staffetta-relay/staffetta/sender"
)

// postgres gives the connection string of a server, from .ci/postgres.
func postgres(t testing.TB) string {
	t.Helper()
	dsn := os.Getenv("STAFFETTA_TEST_POSTGRES")
	if dsn == "" {
		t.Skip("STAFFETTA_TEST_POSTGRES is not set; make test-all starts a server")
	}
	return dsn
}

// table makes a schema for one test, and gives a target for a table in it that is not there yet.
func postgresTable(t testing.TB) (PostgresTarget, *pgxpool.Pool) {
	t.Helper()
	dsn := postgres(t)
	db, err := pgxpool.New(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	schema := fmt.Sprintf(`Test "%x"`, rand.Uint64())
	quoted := pgx.Identifier{schema}.Sanitize()
	execute(t, db, "CREATE SCHEMA "+quoted)
	t.Cleanup(func() {
		if _, err := db.Exec(context.Background(), "DROP SCHEMA "+quoted+" CASCADE"); err != nil {
			t.Error(err)
		}
		db.Close()
	})
	return PostgresTarget{DSN: dsn, Table: schema + ".crm; events", Contact: "/contact/id"}, db
}

func quotedTable(target PostgresTarget) string {
	name, _ := tableName(target.Table)
	return name.Sanitize()
}

func execute(t testing.TB, db *pgxpool.Pool, sql string, args ...any) {
	t.Helper()
	if _, err := db.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// query gives the first column of every row, with spaces between.
func query(t testing.TB, db *pgxpool.Pool, sql string) string {
	t.Helper()
	rows, err := db.Query(t.Context(), sql)
	if err != nil {
		t.Fatal(err)
	}
	texts, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return strings.Join(texts, " ")
}

func TestATableIsMadeOnDemandWithItsColumnsAndIndex(t *testing.T) {
	target, db := postgresTable(t)
	h := opened(t, target)
	if got := query(t, db, "SELECT count(*)::text FROM pg_tables WHERE tablename = 'crm; events'"); got != "0" {
		t.Fatal("the table was made before the first event")
	}
	entries := []*sender.Entry{
		entryOf("a", `{"b":1.50,"a":"è","contact":{"id":77}}`),
		entryOf("b", `{"contact":{"id":"c-1"}}`),
		entryOf("c", `[1]`),
		entryOf("d", `{"contact":{"id":null}}`, func(r *Request) { r.ReceivedAt = receivedAt.Add(time.Microsecond) }),
	}
	expect(t, h.handOver(t.Context(), entries, 1), 4, staffetta.ErrorNone, false, "")
	if got := query(t, db, "SELECT attname || ':' || format_type(atttypid, atttypmod) || CASE WHEN attnotnull THEN '!' ELSE '' END"+
		" FROM pg_attribute WHERE attrelid = '"+strings.ReplaceAll(quotedTable(target), "'", "''")+"'::regclass AND attnum > 0 ORDER BY attnum"); got !=
		"event_id:text! event_type:text! contact_id:text received_at:timestamp with time zone! payload:jsonb!" {
		t.Errorf("columns: %s", got)
	}
	if got := query(t, db, "SELECT substring(indexdef from '\\(.*\\)') FROM pg_indexes WHERE tablename = 'crm; events' ORDER BY 1"); got !=
		"(contact_id, received_at) (event_id)" {
		t.Errorf("indexes: %s", got)
	}
	if got := query(t, db, "SELECT event_id || '|' || event_type || '|' || coalesce(contact_id, 'NULL') || '|' ||"+
		" to_char(received_at AT TIME ZONE 'UTC', 'HH24:MI:SS.US') || '|' || payload::text FROM "+quotedTable(target)+" ORDER BY 1"); got !=
		`a|message.received|77|03:04:05.678901|{"a": "è", "b": 1.50, "contact": {"id": 77}}`+
			` b|message.received|c-1|03:04:05.678901|{"contact": {"id": "c-1"}}`+
			` c|message.received|NULL|03:04:05.678901|[1]`+
			` d|message.received|NULL|03:04:05.678902|{"contact": {"id": null}}` {
		t.Errorf("rows: %s", got)
	}
	if got := query(t, db, "SELECT application_name FROM pg_stat_activity WHERE application_name = 'staffetta receiver' LIMIT 1"); got == "" {
		t.Error("the connection does not say whose it is")
	}
}

func TestARepeatOrAReplayChangesNoRow(t *testing.T) {
	target, db := postgresTable(t)
	h := opened(t, target)
	expect(t, h.handOver(t.Context(), entriesOf("a", 3), 1), 3, staffetta.ErrorNone, false, "")
	other := entryOf("a-1", `{"other":true}`, func(r *Request) { r.Replay = true })
	expect(t, h.handOver(t.Context(), append(entriesOf("a", 5), other, other), 1), 7, staffetta.ErrorNone, false, "")
	if got := query(t, db, "SELECT event_id FROM "+quotedTable(target)+" WHERE NOT payload ? 'other' ORDER BY event_id"); got != "a-0 a-1 a-2 a-3 a-4" {
		t.Errorf("rows: %s", got)
	}
}

func TestEveryEventIsInTheTableOnceWhateverManyFeedsRepeat(t *testing.T) {
	target, db := postgresTable(t)
	var wg sync.WaitGroup
	for range 2 {
		h := opened(t, target) // as two processes have them
		for range 4 {
			wg.Go(func() {
				entries := entriesOf("a", 400)
				for len(entries) > 0 {
					n := min(len(entries), 1+rand.IntN(60))
					handed := h.handOver(t.Context(), entries[:n], 1)
					if handed.Accepted != n {
						t.Errorf("%+v", handed)
						return
					}
					entries = entries[n:]
				}
			})
		}
	}
	wg.Wait()
	if got := query(t, db, "SELECT count(*) || '/' || count(DISTINCT event_id) FROM "+quotedTable(target)); got != "400/400" {
		t.Errorf("rows: %s", got)
	}
}

func TestABatchOf500KeepsTheOrderInWhichRowsAreWritten(t *testing.T) {
	target, db := postgresTable(t)
	execute(t, db, "CREATE TABLE "+quotedTable(target)+" (place bigint GENERATED ALWAYS AS IDENTITY, event_id text PRIMARY KEY,"+
		" event_type text, contact_id text, received_at timestamptz, payload jsonb)")
	h := opened(t, target)
	expect(t, h.handOver(t.Context(), entriesOf("a", 1203), 1), 1203, staffetta.ErrorNone, false, "")
	if got := query(t, db, "SELECT count(*)::text FROM "+quotedTable(target)+" WHERE event_id = 'a-' || place - 1"); got != "1203" {
		t.Errorf("%s rows are in their place", got)
	}
	if got := query(t, db, "SELECT count(DISTINCT xmin::text)::text FROM "+quotedTable(target)); got != "3" {
		t.Errorf("%s transactions; want 3", got)
	}
}

func TestAPoisonRowGoesToTheDeadLettersAndThoseBeforeItAreKept(t *testing.T) {
	target, db := postgresTable(t)
	h := opened(t, target)
	expect(t, h.handOver(t.Context(), entriesOf("first", 1), 1), 1, staffetta.ErrorNone, false, "")
	execute(t, db, "ALTER TABLE "+quotedTable(target)+" ADD CONSTRAINT no_poison CHECK (payload->>'secret' IS NULL)")
	random := make([]byte, 8000)
	for i := range random {
		random[i] = "0123456789abcdefghijklmnopqrstuvwxyz"[rand.IntN(36)]
	}
	for i, c := range []struct{ body, detail string }{
		{`not json, hunter2`, "payload is not JSON"},
		{"\"hunter2 \xff\"", "payload is not JSON"},
		{``, "payload is not JSON"},
		{`{"a":"hunter2 \u0000"}`, `payload has the character \u0000`},
		{`{"a":"hunter2 \ud800"}`, "SQLSTATE 22"},
		{`{"hunter2":1e400000}`, "SQLSTATE 22003"},
		{`{"secret":"hunter2"}`, "by the constraint no_poison (SQLSTATE 23514)"},
		{`{"contact":{"id":"` + string(random) + `"}}`, "SQLSTATE 54000"},
		{strings.Repeat("[", 9000) + strings.Repeat("]", 9000), ""},
	} {
		for _, place := range []int{0, 1, 137, 499} {
			entries := entriesOf(fmt.Sprintf("p%d-%d", i, place), 500)
			entries[place] = entryOf("poison", c.body)
			handed := h.handOver(t.Context(), entries, 1)
			if c.detail == "" && handed.Accepted == 500 {
				continue // this server's stack is deep enough
			}
			expect(t, handed, place, staffetta.ErrorTarget, true, c.detail)
			if d := handed.Outcome.Detail; strings.Contains(d, "hunter2") || strings.Contains(d, "\n") {
				t.Errorf("the detail tells the payload: %s", d)
			}
			expect(t, h.handOver(t.Context(), entries[place+1:], 1), 499-place, staffetta.ErrorNone, false, "")
			got := query(t, db, fmt.Sprintf("SELECT count(*)::text FROM %s WHERE event_id LIKE 'p%d-%d-%%'", quotedTable(target), i, place))
			if got != "499" {
				t.Errorf("%.30s at %d: %s rows; want 499", c.body, place, got)
			}
		}
	}
	if ok := `{"a":"\\u0000 is text"}`; notJSONB([]byte(ok)) != "" {
		t.Errorf("%s: %s", ok, notJSONB([]byte(ok)))
	}
}

func TestATableThatIsDroppedIsMadeAgain(t *testing.T) {
	target, db := postgresTable(t)
	h := opened(t, target)
	for i := range 3 {
		expect(t, h.handOver(t.Context(), entriesOf(fmt.Sprint(i), 2), 1), 2, staffetta.ErrorNone, false, "")
		execute(t, db, "DROP TABLE "+quotedTable(target))
	}
}

func TestATableThatDoesNotFitIsToldAndWaitsForTheOperator(t *testing.T) {
	target, db := postgresTable(t)
	h := opened(t, target)
	for _, c := range []struct{ columns, detail string }{
		{"id bigint, body text", "it needs event_id text PRIMARY KEY, event_type text, contact_id text, received_at timestamptz, payload jsonb"},
		{"event_id text, event_type text, contact_id text, received_at timestamptz, payload jsonb", "it needs event_id text PRIMARY KEY"},
		{"event_id text PRIMARY KEY, event_type text, contact_id bigint, received_at timestamptz, payload jsonb", "does not fit"},
	} {
		execute(t, db, "CREATE TABLE "+quotedTable(target)+" ("+c.columns+")")
		expect(t, h.handOver(t.Context(), entriesOf("a", 2), 1), 0, staffetta.ErrorTarget, false, c.detail)
		execute(t, db, "DROP TABLE "+quotedTable(target))
	}
	expect(t, h.handOver(t.Context(), entriesOf("a", 2), 1), 2, staffetta.ErrorNone, false, "")

	target.Table = "no_such_schema.events"
	expect(t, handBatch(t, target), 0, staffetta.ErrorTarget, false, "the schema of table no_such_schema.events does not exist; create it")
}

func handBatch(t *testing.T, target PostgresTarget) sender.Handed {
	t.Helper()
	return opened(t, target).handOver(t.Context(), entriesOf("a", 2), 1)
}

func TestARoleThatMayOnlyInsertCanBeUsed(t *testing.T) {
	target, db := postgresTable(t)
	expect(t, handBatch(t, target), 2, staffetta.ErrorNone, false, "")
	role := fmt.Sprintf("writer_%x", rand.Uint32())
	schema := pgx.Identifier{strings.Split(target.Table, ".")[0]}.Sanitize()
	execute(t, db, "CREATE ROLE "+role+" LOGIN PASSWORD 'hunter2'")
	t.Cleanup(func() {
		_, _ = db.Exec(context.Background(), "DROP OWNED BY "+role)
		_, _ = db.Exec(context.Background(), "DROP ROLE "+role)
	})
	execute(t, db, "GRANT USAGE ON SCHEMA "+schema+" TO "+role)
	u, err := url.Parse(target.DSN)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(role, "hunter2")
	target.DSN = u.String()
	h := opened(t, target)
	expect(t, h.handOver(t.Context(), entriesOf("b", 2), 1), 0, staffetta.ErrorTarget, false, "the role may not insert")
	// ON CONFLICT (event_id) reads that column.
	execute(t, db, "GRANT INSERT, SELECT (event_id) ON "+quotedTable(target)+" TO "+role)
	expect(t, h.handOver(t.Context(), entriesOf("b", 2), 1), 2, staffetta.ErrorNone, false, "")
}

func TestAServerThatIsRestartedInBetweenLosesNothing(t *testing.T) {
	ctl := os.Getenv("STAFFETTA_TEST_POSTGRES_CTL")
	target, db := postgresTable(t)
	if ctl == "" {
		t.Skip("STAFFETTA_TEST_POSTGRES_CTL is not set")
	}
	control := func(command string) {
		if out, err := exec.Command(ctl, command).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", command, err, out)
		}
	}
	h := opened(t, target)
	expect(t, h.handOver(t.Context(), entriesOf("a", 10), 1), 10, staffetta.ErrorNone, false, "")
	control("restart")
	expect(t, h.handOver(t.Context(), entriesOf("b", 10), 1), 10, staffetta.ErrorNone, false, "")
	control("stop")
	expect(t, h.handOver(t.Context(), entriesOf("c", 10), 1), 0, staffetta.ErrorRefused, false, "the connection was refused")
	control("start")
	expect(t, h.handOver(t.Context(), entriesOf("c", 10), 1), 10, staffetta.ErrorNone, false, "")
	db.Reset()
	if got := query(t, db, "SELECT count(*)::text FROM "+quotedTable(target)); got != "30" {
		t.Errorf("%s rows; want 30", got)
	}
}

func TestATableThatIsLockedTimesOutAndNothingIsLeftBehind(t *testing.T) {
	target, db := postgresTable(t)
	target.Timeout = 300 * time.Millisecond
	h := opened(t, target)
	expect(t, h.handOver(t.Context(), entriesOf("a", 1), 1), 1, staffetta.ErrorNone, false, "")
	tx, err := db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "LOCK TABLE "+quotedTable(target)); err != nil {
		t.Fatal(err)
	}
	expect(t, h.handOver(t.Context(), entriesOf("b", 1), 1), 0, staffetta.ErrorTimeout, false, "within the deadline")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	expect(t, h.handOver(ctx, entriesOf("b", 1), 1), 0, staffetta.ErrorLocal, false, "cut off")
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 100 {
		if query(t, db, "SELECT count(*)::text FROM pg_stat_activity WHERE application_name = 'staffetta receiver' AND state = 'active'") == "0" {
			break
		}
		<-time.After(10 * time.Millisecond)
	}
	expect(t, h.handOver(t.Context(), entriesOf("b", 1), 1), 1, staffetta.ErrorNone, false, "")
}

func TestADatabaseThatCannotBeReachedIsToldWithoutItsPassword(t *testing.T) {
	dsn := postgres(t)
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	at := func(host, path, query string) string {
		return "postgres://staffetta:hunter2@" + host + path + "?sslmode=" + query
	}
	for _, c := range []struct {
		dsn    string
		kind   staffetta.ErrorKind
		detail string
	}{
		{at("127.0.0.1:1", "/postgres", "disable"), staffetta.ErrorRefused, "the connection was refused"},
		{at("nowhere.invalid", "/postgres", "disable"), staffetta.ErrorDNS, "the host name"},
		{at(u.Host, "/no_such_database", "disable"), staffetta.ErrorTarget, `database "no_such_database" does not exist (SQLSTATE 3D000)`},
		{at(u.Host, "/postgres", "require"), staffetta.ErrorTLS, ""},
		{"host=/nowhere user=staffetta password=hunter2 dbname=postgres", staffetta.ErrorRefused, "the database's socket does not exist"},
	} {
		handed := handBatch(t, PostgresTarget{DSN: c.dsn})
		if strings.Contains(handed.Outcome.Detail, "hunter2") {
			t.Errorf("a detail tells the password: %s", handed.Outcome.Detail)
		}
		if handed.Accepted != 0 || handed.Permanent || handed.Outcome.Error != c.kind || !strings.Contains(handed.Outcome.Detail, c.detail) {
			t.Errorf("%s: %+v; want %v: %s", c.dsn, handed.Outcome, c.kind, c.detail)
		}
	}
}

func BenchmarkPostgres(b *testing.B) {
	for _, size := range []int{1, 50, 500} {
		b.Run(fmt.Sprint("batch=", size), func(b *testing.B) {
			target, _ := postgresTable(b)
			h := opened(b, target)
			padding := strings.Repeat("x", 1<<10)
			n := 0
			for b.Loop() {
				b.StopTimer()
				n++
				entries := make([]*sender.Entry, size)
				for i := range entries {
					entries[i] = entryOf(fmt.Sprintf("%d-%d", n, i), fmt.Sprintf(`{"contact":{"id":%d},"text":%q}`, i, padding))
				}
				b.StartTimer()
				if handed := h.handOver(b.Context(), entries, 1); handed.Accepted != size {
					b.Fatalf("%+v", handed)
				}
			}
			b.ReportMetric(float64(b.N*size)/b.Elapsed().Seconds(), "rows/s")
		})
	}
}
