package e2e

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
)

// loadSize is the number of objects in the load; TEST_LOAD sets another. A tenth as many pods are run.
func loadSize(t *testing.T) int {
	t.Helper()
	text := os.Getenv("TEST_LOAD")
	if text == "" {
		return 500
	}
	size, err := strconv.Atoi(text)
	if err != nil || size < 10 {
		t.Fatalf("TEST_LOAD is %q, expected a number from 10 on", text)
	}
	return size
}

// percentiles of how long calls took. Only to read: a shared machine is no place to judge them.
func percentiles(took []time.Duration) string {
	slices.Sort(took)
	return fmt.Sprintf("p50 %s p99 %s", took[len(took)/2].Round(time.Millisecond/10),
		took[len(took)*99/100].Round(time.Millisecond/10))
}

// loadIsAnswered works with many objects from 8 clients: no call fails, each consistent list is whole, and a watch
// tells each change once.
func (w *work) loadIsAnswered(t *testing.T) {
	const clients, lists = 8, 10
	size := loadSize(t)
	before := w.plane.store.usage(t)
	watcher, err := w.maps().Watch(w.ctx, meta.ListOptions{LabelSelector: "group=load", ResourceVersion: w.currentRevision(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer watcher.Stop()
	value := strings.Repeat("x", 1000)
	name := func(i int) string { return fmt.Sprintf("load-%05d", i) }
	phase := func(what string, count int, call func(i int) error) {
		t.Helper()
		took := make([]time.Duration, count)
		errors := make(chan error, clients)
		var running sync.WaitGroup
		for client := range clients {
			running.Go(func() {
				for i := client; i < count; i += clients {
					began := time.Now()
					if err := call(i); err != nil {
						errors <- fmt.Errorf("%s %d: %w", what, i, err)
						return
					}
					took[i] = time.Since(began)
				}
			})
		}
		running.Wait()
		close(errors)
		for err := range errors {
			t.Fatal(err)
		}
		t.Logf("%d times %s: %s", count, what, percentiles(took))
	}
	phase("create", size, func(i int) error {
		_, err := w.maps().Create(w.ctx, configMap(name(i), "load", value), meta.CreateOptions{})
		return err
	})
	phase("get", size, func(i int) error {
		_, err := w.maps().Get(w.ctx, name(i), meta.GetOptions{})
		return err
	})
	phase("update", size, func(i int) error {
		_, err := w.maps().Patch(w.ctx, name(i), types.MergePatchType, []byte(`{"data": {"more": "y"}}`), meta.PatchOptions{})
		return err
	})
	phase("consistent list", lists, func(int) error {
		list, err := w.maps().List(w.ctx, meta.ListOptions{LabelSelector: "group=load"})
		if err == nil && len(list.Items) != size {
			err = fmt.Errorf("%d objects, expected %d", len(list.Items), size)
		}
		return err
	})
	phase("delete", size, func(i int) error { return w.maps().Delete(w.ctx, name(i), meta.DeleteOptions{}) })

	seen := map[string][]watch.EventType{}
	for i := range 3 * size {
		event, err := nextEvent(watcher)
		if err != nil {
			t.Fatalf("event %d of %d: %v", i, 3*size, err)
		}
		object, ok := event.Object.(*core.ConfigMap)
		if !ok {
			t.Fatalf("event %d: %v", i, event)
		}
		seen[object.Name] = append(seen[object.Name], event.Type)
	}
	for object, events := range seen {
		if !slices.Equal(events, []watch.EventType{watch.Added, watch.Modified, watch.Deleted}) {
			t.Errorf("%s: events %v", object, events)
		}
	}

	began := time.Now()
	w.scale(t, size/10)
	t.Logf("%d pods run after %s", size/10, time.Since(began).Round(time.Millisecond))
	w.scale(t, 10)
	after := w.plane.store.usage(t)
	t.Logf("the store took %s of CPU and wrote %.1f MiB for it", after.cpu-before.cpu,
		float64(after.writtenBytes-before.writtenBytes)/(1<<20))
}
