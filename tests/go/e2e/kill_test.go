package e2e

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"
)

// probe writes without a pause and remembers what was acknowledged.
type probe struct {
	mutex        sync.Mutex
	acknowledged map[string]string // name to revision
	unknown      map[string]bool
	longestGap   time.Duration
}

func (p *probe) counts() (acknowledged, unknown int) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	return len(p.acknowledged), len(p.unknown)
}

// run creates objects with new names until the context ends.
func (p *probe) run(ctx context.Context, w *work, writer int) {
	last := time.Now()
	for i := 0; ctx.Err() == nil; i++ {
		name := fmt.Sprintf("probe-%d-%d", writer, i)
		// A write that was begun is ended, so that its fate is known.
		limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		created, err := w.maps().Create(limited, configMap(name, "probe", name), meta.CreateOptions{})
		cancel()
		p.mutex.Lock()
		if err == nil {
			p.acknowledged[name] = created.ResourceVersion
			p.longestGap = max(p.longestGap, time.Since(last))
			last = time.Now()
		} else {
			p.unknown[name] = true
		}
		p.mutex.Unlock()
		if err != nil {
			// The server answers at once while it has no store.
			time.Sleep(20 * time.Millisecond)
		}
	}
}

// storeIsKilled kills the store with SIGKILL under writes and a watch, and starts it again on its data.
func (w *work) storeIsKilled(t *testing.T) {
	const writers, before, after = 4, 150, 150
	p := &probe{acknowledged: map[string]string{}, unknown: map[string]bool{}}
	watcher, err := watchtools.NewRetryWatcherWithContext(w.ctx, w.currentRevision(t), &cache.ListWatch{
		WatchFuncWithContext: func(ctx context.Context, options meta.ListOptions) (watch.Interface, error) {
			options.LabelSelector = "group=probe"
			return w.maps().Watch(ctx, options)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer watcher.Stop()
	ctx, stop := context.WithCancel(w.ctx)
	var running sync.WaitGroup
	for writer := range writers {
		running.Go(func() { p.run(ctx, w, writer) })
	}
	defer running.Wait()
	defer stop()
	reach := func(what string, count int) {
		t.Helper()
		eventually(t, 90*time.Second, what, func() error {
			if acknowledged, unknown := p.counts(); acknowledged < count {
				return fmt.Errorf("%d writes acknowledged, %d unknown", acknowledged, unknown)
			}
			return nil
		})
	}
	reach("writes go through", before)
	w.plane.store.kill(t)
	killed := time.Now()
	w.plane.store.start(t)
	listens := time.Since(killed)
	reached, _ := p.counts()
	reach("writes go through after the kill", reached+after)
	stop()
	running.Wait()
	ready := w.plane.waitReady(t)

	list, err := w.maps().List(w.ctx, meta.ListOptions{LabelSelector: "group=probe"})
	if err != nil {
		t.Fatal(err)
	}
	present := map[string]string{}
	for _, item := range list.Items {
		present[item.Name] = item.ResourceVersion
		if item.Data["value"] != item.Name {
			t.Errorf("%s holds %q", item.Name, item.Data["value"])
		}
		if _, known := p.acknowledged[item.Name]; !known && !p.unknown[item.Name] {
			t.Errorf("%s was never written", item.Name)
		}
	}
	for name, revision := range p.acknowledged {
		if present[name] != revision {
			t.Errorf("%s was acknowledged at revision %s, now %q", name, revision, present[name])
		}
	}
	t.Logf("%d acknowledged, %d unknown of which %d are there; the store listened %s after the kill, the server was "+
		"ready %s later; longest gap %s", len(p.acknowledged), len(p.unknown), len(present)-len(p.acknowledged),
		listens.Round(time.Millisecond), ready.Round(time.Millisecond), p.longestGap.Round(time.Millisecond))

	// The watch has seen each of them once, in order, across the kill.
	last := ""
	for len(present) > 0 {
		event, err := nextEvent(watcher)
		if err != nil {
			t.Fatalf("%d events missing: %v", len(present), err)
		}
		object, ok := event.Object.(*core.ConfigMap)
		if !ok || event.Type != watch.Added {
			t.Fatalf("%v", event)
		}
		if present[object.Name] != object.ResourceVersion {
			t.Fatalf("the watch shows %s at %s, expected %q", object.Name, object.ResourceVersion, present[object.Name])
		}
		if last != "" && !later(t, object.ResourceVersion, last) {
			t.Errorf("the watch shows revision %s after %s", object.ResourceVersion, last)
		}
		last = object.ResourceVersion
		delete(present, object.Name)
	}
}
