package receiver

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/staffetta-relay/staffetta"
	"github.com/staffetta-relay/staffetta/sender"
)

// PostgresTarget inserts events into a table, each exactly once: the event id is the primary key, and
// a repeat or a replay changes nothing. The table is made where it is missing:
//
//	event_id    text PRIMARY KEY
//	event_type  text NOT NULL         the payload's event_type; empty without one
//	contact_id  text                  what Contact leads to
//	received_at timestamptz NOT NULL  to the microsecond
//	payload     jsonb NOT NULL
//
// with an index on (contact_id, received_at). One that exists may have more columns, as long as
// these can be inserted. An event that is not JSON, or that the table refuses, goes to the dead
// letters.
type PostgresTarget struct {
	// DSN is a connection string, as a URL or as words: postgres://user:password@host:5432/database. It
	// never shows in an error. pool_max_conns=N bounds the connections, by default 4.
	DSN string
	// Table, as name or schema.name, spelt as in the database (it is quoted). Default webhook_events.
	Table string
	// Contact is a JSON pointer to the contact's id in a payload, a text or a number. Empty: contact_id
	// stays NULL.
	Contact string
	// Timeout of one statement, with the connecting. Default 30 s; 10 ms to 1 h.
	Timeout time.Duration
}

const defaultTable = "webhook_events"

// Bounds of one INSERT: rows, and about how many bytes of payload.
const (
	maxInsertRows  = 500
	maxInsertBytes = 16 << 20
)

func (t PostgresTarget) validate() error {
	if t.DSN == "" {
		return onField("postgres", "DSN", "is missing; give one such as postgres://user:password@host:5432/database")
	}
	if _, err := pgxpool.ParseConfig(t.DSN); err != nil {
		// What pgx says can have a part of a password in it.
		if e, ok := errors.AsType[*fs.PathError](err); ok {
			return onField("postgres", "DSN", "names a file that cannot be read: "+e.Path+": "+reason(e))
		}
		return onField("postgres", "DSN", "cannot be read; it must be like postgres://user:password@host:5432/database, "+
			"with special characters of the password percent-encoded")
	}
	if _, ok := tableName(t.Table); !ok {
		return onField("postgres", "Table", "must be name or schema.name, of at most 63 bytes each")
	}
	if _, ok := parsePointer(t.Contact); !ok && t.Contact != "" {
		return onField("postgres", "Contact", "must be a JSON pointer, such as /contact/id")
	}
	return timeoutOf("postgres", t.Timeout)
}

// tableName is the name in its parts, quoted by pgx.
func tableName(s string) (pgx.Identifier, bool) {
	if s == "" {
		s = defaultTable
	}
	parts := strings.Split(s, ".")
	for _, part := range parts {
		if part == "" || len(part) > 63 || strings.ContainsRune(part, 0) || !utf8.ValidString(part) {
			return nil, false
		}
	}
	return parts, len(parts) <= 2
}

func (t PostgresTarget) open() (handler, error) {
	if err := t.validate(); err != nil {
		return nil, err
	}
	t.Timeout = orDefault(t.Timeout)
	if t.Table == "" {
		t.Table = defaultTable
	}
	name, _ := tableName(t.Table)
	h := &postgresHandler{PostgresTarget: t, table: name.Sanitize()}
	if t.Contact != "" {
		h.contact, _ = parsePointer(t.Contact)
	}
	h.insert = "INSERT INTO " + h.table + " (event_id, event_type, contact_id, received_at, payload)" +
		" SELECT i, t, c, r, p::jsonb FROM unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::text[])" +
		" AS rows(i, t, c, r, p) ON CONFLICT (event_id) DO NOTHING"
	return h, nil
}

type postgresHandler struct {
	PostgresTarget
	table   string // quoted
	contact []string
	insert  string

	mu   sync.Mutex
	pool *pgxpool.Pool // nil before the first event
}

func (h *postgresHandler) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.pool != nil {
		h.pool.Close()
		h.pool = nil
	}
}

func (h *postgresHandler) connections() (*pgxpool.Pool, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.pool != nil {
		return h.pool, nil
	}
	cfg, err := pgxpool.ParseConfig(h.DSN)
	if err != nil {
		return nil, err
	}
	if _, found := cfg.ConnConfig.RuntimeParams["application_name"]; !found {
		cfg.ConnConfig.RuntimeParams["application_name"] = "staffetta receiver"
	}
	// The pool keeps nothing of the context.
	h.pool, err = pgxpool.NewWithConfig(context.Background(), cfg)
	return h.pool, err
}

// rows are the columns of an INSERT.
type rows struct {
	ids, types []string
	contacts   []*string
	received   []time.Time
	payloads   []string
	bytes      int
	refused    string // why the entry behind them cannot be inserted; empty where it was not looked at
}

// slice is a part of the rows.
func (r *rows) slice(from, to int) []any {
	return []any{r.ids[from:to], r.types[from:to], r.contacts[from:to], r.received[from:to], r.payloads[from:to]}
}

// rows reads entries, up to the bounds of an INSERT or the first that is no row.
func (h *postgresHandler) rows(entries []*sender.Entry) *rows {
	n := min(len(entries), maxInsertRows)
	r := &rows{
		ids: make([]string, 0, n), types: make([]string, 0, n), contacts: make([]*string, 0, n),
		received: make([]time.Time, 0, n), payloads: make([]string, 0, n),
	}
	for _, e := range entries[:n] {
		request, err := parseRequest(e.Data)
		if err != nil {
			r.refused = errStored.Error()
			return r
		}
		if r.bytes += len(request.Body); r.bytes > maxInsertBytes && len(r.ids) > 0 {
			return r
		}
		if r.refused = notJSONB(request.Body); r.refused != "" {
			return r
		}
		var contact *string
		if h.contact != nil {
			if found := readMembers(request.Body, "", h.contact).pointed; found != "" {
				contact = &found
			}
		}
		r.ids = append(r.ids, e.Event.ID)
		r.types = append(r.types, e.Event.Type)
		r.contacts = append(r.contacts, contact)
		r.received = append(r.received, request.ReceivedAt)
		r.payloads = append(r.payloads, string(request.Body))
	}
	return r
}

// notJSONB says why jsonb would not take body; empty where it may.
func notJSONB(body []byte) string {
	switch {
	case !isJSON(body):
		return "payload is not JSON"
	case hasNullCharacter(body):
		return `payload has the character \u0000, which jsonb cannot store`
	default:
		return ""
	}
}

// hasNullCharacter reports whether a string of a JSON text has an escaped U+0000. The text is valid.
func hasNullCharacter(body []byte) bool {
	for i := 0; i < len(body); i++ {
		if body[i] != '\\' {
			continue
		}
		i++ // the escaped character
		if body[i] == 'u' && string(body[i+1:i+5]) == "0000" {
			return true
		}
	}
	return false
}

func (h *postgresHandler) handOver(ctx context.Context, entries []*sender.Entry, _ int) sender.Handed {
	accepted := 0
	for accepted < len(entries) {
		handed := h.some(ctx, entries[accepted:])
		accepted += handed.Accepted
		if handed.Outcome != (staffetta.Outcome{}) {
			handed.Accepted = accepted
			return handed
		}
	}
	return sender.Handed{Accepted: accepted}
}

// some inserts the first of entries, as many as go into one INSERT. Where the database refuses them
// because of a row, those before it are inserted: halves of halves, until the row is alone.
func (h *postgresHandler) some(ctx context.Context, entries []*sender.Entry) sender.Handed {
	r := h.rows(entries)
	done, size := 0, len(r.ids)
	for done < len(r.ids) {
		end := min(done+size, len(r.ids))
		err := h.insertRows(ctx, r.slice(done, end))
		switch {
		case err == nil:
			done = end
		case isDataError(err) && end-done > 1:
			size = (end - done) / 2
		default:
			handed := h.failed(ctx, err)
			handed.Accepted = done
			return handed
		}
	}
	handed := sender.Handed{}
	if r.refused != "" {
		handed = targetRefused(r.refused)
	}
	handed.Accepted = done
	return handed
}

// insertRows is one transaction. It makes the table where that is missing, and goes once to a new
// connection where the server had closed one: the same rows twice are the same as once.
func (h *postgresHandler) insertRows(ctx context.Context, columns []any) error {
	ctx, cancel := context.WithTimeout(ctx, h.Timeout)
	defer cancel()
	pool, err := h.connections()
	if err != nil {
		return err
	}
	for try := 1; ; try++ {
		err, closed := h.execute(ctx, pool, columns)
		switch {
		case err == nil || try == 3 || ctx.Err() != nil:
			return err
		case sqlState(err) == codeUndefinedTable:
			if err := h.createTable(ctx, pool); err != nil {
				return err
			}
		case closed:
			pool.Reset()
		default:
			return err
		}
	}
}

// execute runs the INSERT. closed says that the connection had been there, and is gone.
func (h *postgresHandler) execute(ctx context.Context, pool *pgxpool.Pool, columns []any) (err error, closed bool) {
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return err, false
	}
	defer conn.Release()
	_, err = conn.Exec(ctx, h.insert, columns...)
	return err, err != nil && conn.Conn().IsClosed()
}

// createTable makes the table and its index, unless somebody else just did.
func (h *postgresHandler) createTable(ctx context.Context, pool *pgxpool.Pool) error {
	return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		// Two that create the same table at a time would fail over the catalogue.
		if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock(hashtextextended('staffetta:' || $1, 0))", h.table); err != nil {
			return err
		}
		var missing bool
		if err := tx.QueryRow(ctx, "SELECT to_regclass($1) IS NULL", h.table).Scan(&missing); err != nil || !missing {
			return err
		}
		_, err := tx.Exec(ctx, "CREATE TABLE "+h.table+" (event_id text PRIMARY KEY, event_type text NOT NULL,"+
			" contact_id text, received_at timestamptz NOT NULL, payload jsonb NOT NULL)")
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, "CREATE INDEX ON "+h.table+" (contact_id, received_at)")
		return err
	})
}

// Codes of PostgreSQL's errors, with the classes (the first two characters) below.
const (
	codeUndefinedTable   = "42P01"
	codeUndefinedColumn  = "42703"
	codeDatatypeMismatch = "42804"
	codeNoSuchConstraint = "42P10" // there is no unique index for ON CONFLICT
	codeNoSchema         = "3F000"
	codeNoPrivilege      = "42501"
	codeQueryCanceled    = "57014"
	codeNullCharacter    = "22P05"
	codeNoUTF8           = "22021"
)

func sqlState(err error) string {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.Code
	}
	return ""
}

// isDataError reports whether the database refused a row for what is in it: a value (class 22), a
// constraint (23), or a limit such as the size of an index entry (54).
func isDataError(err error) bool {
	code := sqlState(err)
	return strings.HasPrefix(code, "22") || strings.HasPrefix(code, "23") || strings.HasPrefix(code, "54")
}

func (h *postgresHandler) failed(ctx context.Context, err error) sender.Handed {
	if ctx.Err() != nil {
		return cutOff()
	}
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		if isDataError(err) {
			return targetRefused(rowRefusal(e))
		}
		kind := staffetta.ErrorTarget
		if e.Code == codeQueryCanceled {
			kind = staffetta.ErrorTimeout
		}
		return targetFailed(kind, h.serverDetail(e))
	}
	return sender.Handed{Outcome: connectionOutcome(err)}
}

// rowRefusal says why a row cannot be inserted. What the server says can have a part of the row in it,
// so only names of the table's own are taken from it.
func rowRefusal(e *pgconn.PgError) string {
	detail := "the database refuses the event"
	switch {
	case e.Code == codeNullCharacter:
		detail = "payload has a character that jsonb cannot store"
	case e.Code == codeNoUTF8:
		detail = "the event has text that is not UTF-8"
	case e.ConstraintName != "":
		detail += " by the constraint " + e.ConstraintName
	case e.ColumnName != "":
		detail += " for its column " + e.ColumnName
	}
	return firstLine(detail + " (SQLSTATE " + e.Code + ")")
}

// serverDetail says what an operator can do about an error of the server, or else what it says.
func (h *postgresHandler) serverDetail(e *pgconn.PgError) string {
	state := " (SQLSTATE " + e.Code + ")"
	switch e.Code {
	case codeUndefinedColumn, codeDatatypeMismatch, codeNoSuchConstraint:
		return "table " + h.Table + " does not fit: it needs event_id text PRIMARY KEY, event_type text, contact_id text," +
			" received_at timestamptz, payload jsonb" + state
	case codeNoSchema:
		return "the schema of table " + h.Table + " does not exist; create it" + state
	case codeNoPrivilege:
		return "the role may not insert into table " + h.Table + ", or may not create it" + state
	}
	// The messages of these classes name no values: connection, transaction, authorization, catalogue,
	// schema, rollback, syntax and access, resources, state, operator, system, internal.
	for class := range strings.SplitSeq("08 25 28 3D 3F 40 42 53 55 57 58 XX", " ") {
		if strings.HasPrefix(e.Code, class) {
			return firstLine(e.Message) + state
		}
	}
	return "the database reports an error" + state
}

// connectionOutcome is for what is no error of the server. Nothing of the DSN is in it.
func connectionOutcome(err error) staffetta.Outcome {
	if e, ok := errors.AsType[*net.DNSError](err); ok {
		return dialled(e)
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded) || pgconn.Timeout(err) || isTimeout(err):
		return staffetta.Outcome{Error: staffetta.ErrorTimeout, Detail: "the database did not answer within the deadline"}
	case errors.Is(err, syscall.ENOENT):
		return staffetta.Outcome{Error: staffetta.ErrorRefused, Detail: "the database's socket does not exist"}
	}
	if e, ok := errors.AsType[*net.OpError](err); ok && e.Op == "dial" {
		return dialled(e)
	}
	broken := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET)
	if e, ok := errors.AsType[*pgconn.ConnectError](err); ok && !broken {
		if e.Config.TLSConfig != nil {
			return sender.FailureOutcome(err, sender.StepTLS, false)
		}
		return staffetta.Outcome{Error: staffetta.ErrorTarget, Detail: "the database does not accept the connection; are user and password right?"}
	}
	return staffetta.Outcome{Error: staffetta.ErrorReset, Detail: "the connection to the database was closed"}
}
