package e2e

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// nodeLabel is carried by the nodes that the simulated kubelets care for.
const nodeLabel = "e2e=node"

// rangeStreamSince is the minor version of the first kube-apiserver that lists by RangeStream.
const rangeStreamSince = 37

// gates are those that other stores of kube-apiserver had to turn off.
var gates = []string{"DetectCacheInconsistency", "ListFromCacheSnapshot", "SizeBasedListCostEstimate", "WatchList"}

// newGates are more that ask much of a store, on since 1.37.
var newGates = []string{"ConcurrentWatchObjectDecode", "EtcdRangeStream", "WatchCacheInitializationPostStartHook"}

// TestControlPlaneOnStore runs a stock control plane on the store named by TEST_STORE and TEST_STORE_BIN, works with
// it, kills the store in the middle, and looks at what the server says and counts about the store.
func TestControlPlaneOnStore(t *testing.T) {
	logs := logDirectory(t)
	ctx, cancel := context.WithTimeout(context.Background(), 9*time.Minute)
	defer cancel()

	s := newStore(t, logs)
	s.start(t)
	p := newPlane(t, s, logs)
	t.Logf("kube-apiserver is ready after %s", p.startServer(t).Round(time.Millisecond))
	p.startOthers(t)
	began := time.Now()

	step := func(name string, run func(*testing.T)) {
		t.Helper()
		start := time.Now()
		if !t.Run(name, run) {
			t.FailNow()
		}
		t.Logf("%s: %s", name, time.Since(start).Round(time.Millisecond))
	}
	step("nodes_become_ready", func(t *testing.T) { p.nodesBecomeReady(ctx, t) })
	w := &work{plane: p, ctx: ctx, namespace: "work"}
	w.createNamespace(t, w.namespace)
	first := w.currentRevision(t)
	step("all_pods_of_a_deployment_run", w.deploymentRuns)
	step("a_job_completes", w.jobCompletes)
	step("pages_show_one_moment", w.pagesShowOneMoment)
	step("a_list_at_an_exact_revision_is_the_past", w.exactRevisionIsThePast)
	step("selectors_choose", w.selectorsChoose)
	step("a_watch_gives_each_event_once_in_order", w.watchGivesEachEventOnce)
	step("a_watch_list_gives_the_state_then_events", w.watchListGivesState)
	step("concurrent_increments_are_all_counted", w.incrementsAreCounted)
	step("an_update_at_an_old_revision_conflicts", w.oldUpdateConflicts)
	step("server_side_apply_merges", w.applyMerges)
	step("custom_resources_work", w.customResourcesWork)
	step("a_finalizer_holds_an_object", w.finalizerHolds)
	step("nothing_acknowledged_is_lost_when_the_store_is_killed", w.storeIsKilled)
	step("the_deployment_grows_after_the_kill", w.deploymentGrows)
	step("a_load_is_answered", w.loadIsAnswered)
	step("a_namespace_drains", w.namespaceDrains)
	step("a_revision_that_was_compacted_is_gone", func(t *testing.T) { w.compactedIsGone(t, first) })
	step("events_expire_with_their_lease", w.eventsExpire)
	step("the_server_keeps_its_lease", w.serverKeepsLease)
	step("no_feature_gate_is_given_and_all_are_on", p.gatesAreOn)
	step("streamed_lists_and_consistent_cache_reads_are_used", p.fastPathsAreUsed)
	p.allStillRun(t)
	step("the_server_says_nothing_about_the_store_that_it_does_not_say_about_etcd", p.noStrangeLines)

	fmt.Printf("store %s after %s of work\n", s.usage(t), time.Since(began).Round(time.Second))
	step("the_store_stops_cleanly", func(t *testing.T) {
		p.apiserver.kill(t)
		if err := s.process.stop(t, 20*time.Second); err != nil && s.kind == "dqlited" {
			// etcd ends by the signal itself; ours says 0.
			t.Errorf("the store ended with: %v\n%s", err, s.process.tail(15))
		}
	})
}

// allStillRun looks whether a program has ended by itself, and says that from here on each may: they lose each other
// while the test ends.
func (p *plane) allStillRun(t *testing.T) {
	t.Helper()
	for _, program := range append(p.others, p.apiserver, p.store.process) {
		if program.hasExited() {
			t.Errorf("%s ended by itself: %v\n%s", program.name, program.exit, program.tail(15))
		}
		program.wanted.Store(true)
	}
}

// logDirectory is kept if the test fails or TEST_KEEP_LOGS is set.
func logDirectory(t *testing.T) string {
	t.Helper()
	logs, err := os.MkdirTemp("", "dqlited-e2e-")
	if err != nil {
		t.Fatal(err)
	}
	// Registered before any program is started, so it runs when all have ended.
	t.Cleanup(func() {
		if t.Failed() || os.Getenv("TEST_KEEP_LOGS") != "" {
			t.Logf("logs are kept in %s", logs)
		} else {
			os.RemoveAll(logs)
		}
	})
	return logs
}

// nodesBecomeReady creates nodes and waits until their kubelets and the node controller have seen each other.
func (p *plane) nodesBecomeReady(ctx context.Context, t *testing.T) {
	for i := range 3 {
		name := fmt.Sprintf("node-%d", i)
		_, err := p.client.CoreV1().Nodes().Create(ctx, &core.Node{ObjectMeta: meta.ObjectMeta{
			Name: name,
			Labels: map[string]string{
				"e2e": "node", "kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
			},
		}}, meta.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, 90*time.Second, "3 nodes are ready and carry no taint", func() error {
		nodes, err := p.client.CoreV1().Nodes().List(ctx, meta.ListOptions{LabelSelector: nodeLabel})
		if err != nil {
			return err
		}
		ready := 0
		for _, node := range nodes.Items {
			for _, condition := range node.Status.Conditions {
				if condition.Type == core.NodeReady && condition.Status == core.ConditionTrue && len(node.Spec.Taints) == 0 {
					ready++
				}
			}
		}
		if ready != 3 {
			return fmt.Errorf("%d of %d", ready, len(nodes.Items))
		}
		return nil
	})
}

// gatesAreOn looks at how the programs were really started and at what the server says about its gates.
func (p *plane) gatesAreOn(t *testing.T) {
	for _, program := range append(p.others, p.apiserver) {
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", program.pid))
		if err != nil {
			t.Fatal(err)
		}
		if len(line) == 0 || strings.Contains(string(line), "feature-gates") {
			t.Errorf("%s runs as %q", program.name, line)
		}
	}
	samples, err := p.metrics()
	if err != nil {
		t.Fatal(err)
	}
	expected := gates
	if p.minor(t) >= rangeStreamSince {
		expected = slices.Concat(gates, newGates)
	}
	for _, gate := range expected {
		if sum(samples, "kubernetes_feature_enabled", "name", gate) != 1 {
			t.Errorf("gate %s is not on", gate)
		}
	}
}

// fastPathsAreUsed looks at the counters that tell whether the server falls back to older ways.
func (p *plane) fastPathsAreUsed(t *testing.T) {
	samples, err := p.metrics()
	if err != nil {
		t.Fatal(err)
	}
	streamed := sum(samples, "apiserver_storage_list_duration_seconds_count", "streamed", "true")
	paged := sum(samples, "apiserver_storage_list_duration_seconds_count", "streamed", "false")
	streams := sum(samples, "etcd_request_duration_seconds_count", "operation", "listStream")
	consistent := sum(samples, "apiserver_watch_cache_consistent_read_total", "success", "true", "fallback", "false")
	fallback := sum(samples, "apiserver_watch_cache_consistent_read_total", "fallback", "true")
	failed := sum(samples, "apiserver_watch_cache_consistent_read_total", "success", "false")
	// The second is its name before 1.37.
	bookmarks := max(sum(samples, "etcd_bookmark_total"), sum(samples, "etcd_bookmark_counts"))
	size := sum(samples, "apiserver_storage_size_bytes")
	broken := sum(samples, "apiserver_storage_consistency_checks_total", "status", "failure")
	t.Logf("lists: %.0f streamed (%.0f requests), %.0f paged; consistent reads from cache: %.0f, fallbacks %.0f, "+
		"failed %.0f; bookmarks %.0f; size %.0f bytes", streamed, streams, paged, consistent, fallback, failed, bookmarks, size)
	// The cache of each resource, some 60, asks for a stream once at start; the other lists are those that the caches
	// cannot answer.
	if p.minor(t) >= rangeStreamSince && (streams < 50 || streamed < 3 || paged > 0) {
		t.Errorf("%.0f streams (RangeStream) were asked for; %.0f lists were streamed, %.0f paged", streams, streamed, paged)
	}
	if consistent < 20 {
		t.Errorf("%.0f consistent reads came from the cache (RequestWatchProgress), %.0f fell back", consistent, fallback)
	}
	if bookmarks < 20 {
		t.Errorf("%.0f progress notices came from the store", bookmarks)
	}
	if size <= 0 {
		t.Error("the store reports no size")
	}
	if broken != 0 {
		t.Errorf("%.0f consistency checks failed", broken)
	}
	// Reads that wait while the store is killed may fall back; others must not.
	if fallback+failed > 5 {
		t.Errorf("%.0f consistent reads fell back to the store, %.0f failed", fallback, failed)
	}
	raw, err := os.ReadFile(p.apiserver.log)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(raw), "RequestWatchProgress feature is not supported") {
		t.Error("kube-apiserver thinks that the store has no RequestWatchProgress")
	}
}

// noStrangeLines compares what the server says about the store with what it says about etcd.
func (p *plane) noStrangeLines(t *testing.T) {
	allowed, err := allowances(allowedLines)
	if err != nil {
		t.Fatal(err)
	}
	lines, others, err := storeLines(p.apiserver.log)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("kube-apiserver: %d lines at warning or above about the store, %d others", len(lines), others)
	strange := strangeLines(lines, allowed, p.store.kills)
	for i, line := range strange {
		if i == 30 {
			t.Errorf("... and %d more", len(strange)-i)
			break
		}
		t.Errorf("not said about etcd: %s", line)
	}
}
