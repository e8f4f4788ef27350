// Command staffetta is a webhook relay that keeps every endpoint's events in order, a receiver, their clients, a demo and a bench.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"
)

// version is set by the build.
var version = "dev"

// The exit statuses.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

// commands is the command line.
type commands struct {
	Config kong.ConfigFlag `help:"YAML file with the flags of the command, without their dashes." placeholder:"FILE" env:"STAFFETTA_CONFIG"`

	Relay       relayCommand       `cmd:"" help:"Take events in over HTTP and deliver them, in order, to every endpoint."`
	Receiver    receiverCommand    `cmd:"" help:"Take webhooks, store them, answer 200 at once, and hand them on at the pace of what is behind."`
	Endpoints   endpointsCommand   `cmd:"" help:"Manage the endpoints of a workspace on a running relay."`
	Events      eventsCommand      `cmd:"" help:"Send events to a running relay."`
	Attempts    attemptsCommand    `cmd:"" help:"Show the attempts of a workspace, newest first, or follow new ones."`
	DeadLetters deadLettersCommand `cmd:"" help:"List, export and delete the events that were given up."`
	Replay      replayCommand      `cmd:"" help:"Send events again: some, or all that were dropped since a time."`
	Targets     targetsCommand     `cmd:"" help:"Show the targets that a running receiver hands events on to."`
	Bench       benchCommand       `cmd:"" help:"Measure what a relay, a receiver, or a webhook URL of yours carries."`
	Demo        demoCommand        `cmd:"" help:"Run a relay with three endpoints, and a receiver before a CRM that breaks down, and watch them deliver."`
	Version     versionCommand     `cmd:"" help:"Print the version."`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run is main with its surroundings as arguments; it gives the exit status.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	status := -1
	var line commands
	parser, err := kong.New(&line,
		kong.Name("staffetta"),
		kong.Description("A webhook relay that keeps every endpoint's events strictly in order, and the receiver for its other end."),
		kong.UsageOnError(),
		kong.DefaultEnvars("STAFFETTA"),
		kong.Configuration(loadYAML),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.Writers(stdout, stderr),
		kong.Exit(func(code int) { status = code }),
	)
	if err != nil {
		_, _ = fmt.Fprintln(stderr, "staffetta:", err)
		return exitFailed
	}
	parsed, err := parser.Parse(args)
	switch {
	case status >= 0: // --help has been printed
		return status
	case err != nil:
		_, _ = fmt.Fprintf(stderr, "staffetta: %v\nSee staffetta --help.\n", err)
		return exitUsage
	}
	err = parsed.Run(&surroundings{ctx: ctx, stdin: stdin, stdout: stdout, stderr: stderr})
	var usage usageError
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &usage):
		_, _ = fmt.Fprintln(stderr, "staffetta:", err)
		return exitUsage
	default:
		_, _ = fmt.Fprintln(stderr, "staffetta:", err)
		return exitFailed
	}
}

// surroundings is what a command runs in. The context ends on SIGINT and SIGTERM.
type surroundings struct {
	ctx    context.Context //nolint:containedctx // kong hands arguments to commands by type; this is one
	stdin  io.Reader
	stdout io.Writer
	stderr io.Writer
}

// usageError is a wrong use of a command that its flags alone do not show.
type usageError string

func (e usageError) Error() string { return string(e) }
