package bench

import (
	"context"
	"fmt"
)

func fanoutScenario() Scenario {
	return Scenario{
		Name:    "fanout",
		Summary: "how many events a second go in, and copies out, where every event has ten endpoints",
		Explain: `
Every endpoint of a workspace has asked for every event type, and a workspace has ten endpoints: an event
that is taken comes out ten times, to each endpoint in order. accepted_per_second counts events,
delivered_per_second copies, and every copy is judged. The loop is closed, with one post of each producer
undelivered at most; with --rate it is open.`,
		Defaults: Options{Endpoints: 100, Batch: 20},
		Run:      runFanout,
	}
}

func runFanout(ctx context.Context, r *Run) (*Result, error) {
	fan := min(r.Options.Endpoints, PerWorkspace)
	out, err := r.measureRelay(ctx, RigConfig{Fan: true, PerWorkspace: fan, Window: Connections * r.Options.Batch * fan})
	if err != nil {
		return nil, err
	}
	out.Figures["fan"] = ratio(float64(out.Delivered), float64(out.Accepted))
	out.Figures["events_per_second"], out.Figures["copies_per_second"] = ratio(out.DeliveredPerSecond, ratio(float64(out.Delivered), float64(out.Accepted))), out.DeliveredPerSecond
	out.Tables = append(out.Tables, fmt.Sprintf("fan          %s events came out as %s copies: %s events/s in, %s copies/s out, all of them delivered\n",
		count(out.Accepted), count(out.Delivered), count(out.Figures["events_per_second"].(float64)), count(out.DeliveredPerSecond)))
	return out, nil
}
