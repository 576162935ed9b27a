package e2e

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestCacheAgreesWithStoreForLong lets a control plane work until kube-apiserver has compared its caches with the store
// by itself. It begins to after 5 to 7.5 minutes, by no setting, so this test runs only where TEST_SOAK gives it a
// time, 12m for instance.
func TestCacheAgreesWithStoreForLong(t *testing.T) {
	text := os.Getenv("TEST_SOAK")
	if text == "" {
		t.Skip("not run: TEST_SOAK gives no time, tests/nightly does")
	}
	length, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	logs := logDirectory(t)
	ctx, cancel := context.WithTimeout(context.Background(), length+5*time.Minute)
	defer cancel()
	s := newStore(t, logs)
	s.start(t)
	p := newPlane(t, s, logs)
	// The usual one: the checker cannot look at a revision that was compacted.
	p.compaction = 5 * time.Minute
	p.startServer(t)
	p.startOthers(t)
	p.nodesBecomeReady(ctx, t)
	w := &work{plane: p, ctx: ctx, namespace: "work"}
	w.createNamespace(t, w.namespace)
	w.deploymentRuns(t)

	end := time.Now().Add(length)
	for round := 0; time.Now().Before(end); round++ {
		for i := range 50 {
			w.createMap(t, fmt.Sprintf("soak-%d-%d", round, i), "soak", fmt.Sprint(round))
		}
		if round > 3 {
			err := w.maps().DeleteCollection(ctx, meta.DeleteOptions{}, meta.ListOptions{LabelSelector: "group=soak"})
			if err != nil {
				t.Fatal(err)
			}
		}
		w.scale(t, 10+round%10)
		// Not a wait for anything: the pace of the work.
		select {
		case <-time.After(time.Until(end) % (10 * time.Second)):
		case <-ctx.Done():
			t.Fatal(ctx.Err())
		}
		if p.apiserver.hasExited() {
			t.Fatalf("kube-apiserver ended: %v\n%s", p.apiserver.exit, p.apiserver.tail(40))
		}
	}
	samples, err := p.metrics()
	if err != nil {
		t.Fatal(err)
	}
	const checks = "apiserver_storage_consistency_checks_total"
	good, bad := sum(samples, checks, "status", "success"), sum(samples, checks, "status", "failure")
	unable := sum(samples, checks, "status", "error")
	t.Logf("caches compared with the store: %.0f agree, %.0f differ, %.0f could not be compared", good, bad, unable)
	if good < 30 || bad != 0 || unable != 0 {
		t.Errorf("%.0f comparisons agree, %.0f differ, %.0f could not be made", good, bad, unable)
	}
	p.noStrangeLines(t)
	fmt.Printf("store %s after a soak of %s\n", s.usage(t), length)
	p.allStillRun(t)
}
