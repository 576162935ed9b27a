package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	apps "k8s.io/api/apps/v1"
	batch "k8s.io/api/batch/v1"
	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/apimachinery/pkg/watch"
	applycore "k8s.io/client-go/applyconfigurations/core/v1"
	clientcore "k8s.io/client-go/kubernetes/typed/core/v1"
)

// work is what users do with a control plane.
type work struct {
	plane     *plane
	ctx       context.Context
	namespace string
}

func (w *work) maps() clientcore.ConfigMapInterface {
	return w.plane.client.CoreV1().ConfigMaps(w.namespace)
}

func (w *work) createNamespace(t *testing.T, name string) {
	t.Helper()
	_, err := w.plane.client.CoreV1().Namespaces().Create(w.ctx,
		&core.Namespace{ObjectMeta: meta.ObjectMeta{Name: name}}, meta.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// Pods are refused until their namespace has its account.
	eventually(t, 30*time.Second, "namespace "+name+" has its service account", func() error {
		_, err := w.plane.client.CoreV1().ServiceAccounts(name).Get(w.ctx, "default", meta.GetOptions{})
		return err
	})
}

// currentRevision is the store's revision as a consistent list shows it.
func (w *work) currentRevision(t *testing.T) string {
	t.Helper()
	list, err := w.maps().List(w.ctx, meta.ListOptions{Limit: 1})
	if err != nil {
		t.Fatal(err)
	}
	return list.ResourceVersion
}

// createMap creates a ConfigMap with one label and one value.
func (w *work) createMap(t *testing.T, name, group, value string) *core.ConfigMap {
	t.Helper()
	created, err := w.maps().Create(w.ctx, configMap(name, group, value), meta.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return created
}

func configMap(name, group, value string) *core.ConfigMap {
	return &core.ConfigMap{
		ObjectMeta: meta.ObjectMeta{Name: name, Labels: map[string]string{"group": group}},
		Data:       map[string]string{"value": value},
	}
}

func template(name string) core.PodTemplateSpec {
	return core.PodTemplateSpec{
		ObjectMeta: meta.ObjectMeta{Labels: map[string]string{"app": name}},
		Spec: core.PodSpec{
			Containers: []core.Container{{Name: "main", Image: "none"}},
		},
	}
}

// deploymentRuns creates a Deployment with a Service and waits for its pods and their addresses.
func (w *work) deploymentRuns(t *testing.T) {
	replicas := int32(20)
	_, err := w.plane.client.AppsV1().Deployments(w.namespace).Create(w.ctx, &apps.Deployment{
		ObjectMeta: meta.ObjectMeta{Name: "web"},
		Spec: apps.DeploymentSpec{
			Replicas: &replicas,
			Selector: &meta.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
			Template: template("web"),
		},
	}, meta.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.plane.client.CoreV1().Services(w.namespace).Create(w.ctx, &core.Service{
		ObjectMeta: meta.ObjectMeta{Name: "web"},
		Spec:       core.ServiceSpec{Selector: map[string]string{"app": "web"}, Ports: []core.ServicePort{{Port: 80}}},
	}, meta.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w.waitForPods(t, int(replicas))
}

// waitForPods waits until the Deployment has exactly that many pods, all running, and the Service their addresses.
func (w *work) waitForPods(t *testing.T, count int) {
	t.Helper()
	eventually(t, 150*time.Second, fmt.Sprintf("%d pods run", count), func() error {
		pods, err := w.plane.client.CoreV1().Pods(w.namespace).List(w.ctx, meta.ListOptions{LabelSelector: "app=web"})
		if err != nil {
			return err
		}
		running := 0
		addresses := map[string]bool{}
		for _, pod := range pods.Items {
			if pod.Status.Phase == core.PodRunning && pod.Spec.NodeName != "" {
				running++
			}
			if pod.Status.PodIP != "" {
				addresses[pod.Status.PodIP] = true
			}
		}
		if running != count || len(pods.Items) != count {
			return fmt.Errorf("%d running of %d", running, len(pods.Items))
		}
		deployment, err := w.plane.client.AppsV1().Deployments(w.namespace).Get(w.ctx, "web", meta.GetOptions{})
		if err != nil {
			return err
		}
		if int(deployment.Status.ReadyReplicas) != count {
			return fmt.Errorf("the deployment's status says %d ready", deployment.Status.ReadyReplicas)
		}
		slices, err := w.plane.client.DiscoveryV1().EndpointSlices(w.namespace).List(w.ctx,
			meta.ListOptions{LabelSelector: discovery.LabelServiceName + "=web"})
		if err != nil {
			return err
		}
		ready := 0
		for _, slice := range slices.Items {
			for _, endpoint := range slice.Endpoints {
				if *endpoint.Conditions.Ready && addresses[endpoint.Addresses[0]] {
					ready++
				}
			}
		}
		if ready != count {
			return fmt.Errorf("the service knows %d ready addresses", ready)
		}
		return nil
	})
}

// scale sets the number of pods and waits for exactly them.
func (w *work) scale(t *testing.T, replicas int) {
	t.Helper()
	_, err := w.plane.client.AppsV1().Deployments(w.namespace).Patch(w.ctx, "web", types.MergePatchType,
		fmt.Appendf(nil, `{"spec": {"replicas": %d}}`, replicas), meta.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w.waitForPods(t, replicas)
}

func (w *work) deploymentGrows(t *testing.T) {
	w.scale(t, 30)
}

func (w *work) jobCompletes(t *testing.T) {
	completions := int32(5)
	pods := template("sum")
	pods.Spec.RestartPolicy = core.RestartPolicyNever
	_, err := w.plane.client.BatchV1().Jobs(w.namespace).Create(w.ctx, &batch.Job{
		ObjectMeta: meta.ObjectMeta{Name: "sum"},
		Spec:       batch.JobSpec{Completions: &completions, Parallelism: &completions, Template: pods},
	}, meta.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, 60*time.Second, "the job completes", func() error {
		job, err := w.plane.client.BatchV1().Jobs(w.namespace).Get(w.ctx, "sum", meta.GetOptions{})
		if err != nil {
			return err
		}
		if job.Status.Succeeded != completions || job.Status.CompletionTime == nil {
			return fmt.Errorf("%d of %d succeeded", job.Status.Succeeded, completions)
		}
		return nil
	})
}

func names(list *core.ConfigMapList) []string {
	var found []string
	for _, item := range list.Items {
		found = append(found, item.Name)
	}
	slices.Sort(found)
	return found
}

// pagesShowOneMoment changes the objects between two pages of a list, which must not show in later pages.
func (w *work) pagesShowOneMoment(t *testing.T) {
	const count, page = 120, 25
	var expected []string
	for i := range count {
		expected = append(expected, w.createMap(t, fmt.Sprintf("page-%03d", i), "page", "before").Name)
	}
	var got []string
	var revision string
	options := meta.ListOptions{LabelSelector: "group=page", Limit: page}
	for pages := 0; ; pages++ {
		if pages > count/page+1 {
			t.Fatalf("no end after %d pages", pages)
		}
		list, err := w.maps().List(w.ctx, options)
		if err != nil {
			t.Fatal(err)
		}
		if pages == 0 {
			revision = list.ResourceVersion
			if err := w.maps().Delete(w.ctx, "page-100", meta.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			w.createMap(t, "page-110-new", "page", "after")
			_, err := w.maps().Patch(w.ctx, "page-119", types.MergePatchType, []byte(`{"data": {"value": "after"}}`),
				meta.PatchOptions{})
			if err != nil {
				t.Fatal(err)
			}
		}
		if list.ResourceVersion != revision {
			t.Errorf("page %d is of revision %s, the first of %s", pages, list.ResourceVersion, revision)
		}
		got = append(got, names(list)...)
		for _, item := range list.Items {
			if item.Data["value"] != "before" {
				t.Errorf("%s: %q on page %d", item.Name, item.Data["value"], pages)
			}
		}
		if options.Continue = list.Continue; options.Continue == "" {
			break
		}
	}
	if !slices.Equal(got, expected) {
		t.Errorf("pages show %v", got)
	}

	// Without a selector the server also says how many there are after a page.
	all, err := w.maps().List(w.ctx, meta.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	part, err := w.maps().List(w.ctx, meta.ListOptions{Limit: page})
	if err != nil {
		t.Fatal(err)
	}
	if part.RemainingItemCount == nil || int(*part.RemainingItemCount) != len(all.Items)-page {
		t.Errorf("remaining %v of %d", part.RemainingItemCount, len(all.Items))
	}
}

func (w *work) exactRevisionIsThePast(t *testing.T) {
	for i := range 10 {
		w.createMap(t, fmt.Sprintf("exact-%d", i), "exact", "before")
	}
	before, err := w.maps().List(w.ctx, meta.ListOptions{LabelSelector: "group=exact"})
	if err != nil {
		t.Fatal(err)
	}
	if len(before.Items) != 10 {
		t.Fatalf("%d objects", len(before.Items))
	}
	for i := range 5 {
		if err := w.maps().Delete(w.ctx, fmt.Sprintf("exact-%d", i), meta.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	w.createMap(t, "exact-new", "exact", "after")
	// With a limit as well: one comes from the cache's snapshot, one from the store.
	for _, limit := range []int64{0, 3} {
		var then []string
		options := meta.ListOptions{
			LabelSelector: "group=exact", Limit: limit, ResourceVersion: before.ResourceVersion,
			ResourceVersionMatch: meta.ResourceVersionMatchExact,
		}
		for range 10 {
			list, err := w.maps().List(w.ctx, options)
			if err != nil {
				t.Fatal(err)
			}
			if list.ResourceVersion != before.ResourceVersion {
				t.Errorf("limit %d: asked for revision %s, got %s", limit, before.ResourceVersion, list.ResourceVersion)
			}
			then = append(then, names(list)...)
			if list.Continue == "" {
				break
			}
			options = meta.ListOptions{LabelSelector: "group=exact", Limit: limit, Continue: list.Continue}
		}
		if !slices.Equal(then, names(before)) {
			t.Errorf("limit %d: %v at revision %s, then %v", limit, names(before), before.ResourceVersion, then)
		}
	}
	now, err := w.maps().List(w.ctx, meta.ListOptions{LabelSelector: "group=exact"})
	if err != nil {
		t.Fatal(err)
	}
	if len(now.Items) != 6 {
		t.Errorf("now %v", names(now))
	}
	// A revision that the store has not reached is an error with advice, not an old answer. Asked without the
	// client, which would follow the advice and try again for 40 s.
	answer, err := w.plane.get("/api/v1/namespaces/" + w.namespace +
		"/configmaps?limit=1&resourceVersion=1000000000&resourceVersionMatch=Exact")
	if err == nil || !strings.Contains(answer, string(meta.CauseTypeResourceVersionTooLarge)) {
		t.Errorf("a revision of the future: %v, %s", err, answer)
	}
}

func (w *work) selectorsChoose(t *testing.T) {
	for i := range 12 {
		w.createMap(t, fmt.Sprintf("select-%d", i), fmt.Sprintf("select-%d", i%3), "x")
	}
	for selector, count := range map[string]int{
		"group=select-0":                 4,
		"group in (select-0, select-2)":  8,
		"group=select-7":                 0,
		"group,group notin (page,exact)": 12,
	} {
		list, err := w.maps().List(w.ctx, meta.ListOptions{LabelSelector: selector})
		if err != nil {
			t.Fatal(err)
		}
		if len(list.Items) != count {
			t.Errorf("%s: %v", selector, names(list))
		}
	}
	one, err := w.maps().List(w.ctx, meta.ListOptions{FieldSelector: "metadata.name=select-5"})
	if err != nil {
		t.Fatal(err)
	}
	if len(one.Items) != 1 {
		t.Errorf("by name: %v", names(one))
	}
}

// nextEvent waits for an event of a watch that is no bookmark.
func nextEvent(watcher watch.Interface) (watch.Event, error) {
	limit := time.After(20 * time.Second)
	for {
		select {
		case event, open := <-watcher.ResultChan():
			if !open {
				return event, fmt.Errorf("the watch has ended")
			}
			if event.Type == watch.Bookmark {
				continue
			}
			return event, nil
		case <-limit:
			return watch.Event{}, fmt.Errorf("no event within 20 s")
		}
	}
}

// watchGivesEachEventOnce starts two watches, one before the changes and one after them at the same revision.
func (w *work) watchGivesEachEventOnce(t *testing.T) {
	start := w.currentRevision(t)
	options := meta.ListOptions{LabelSelector: "group=watch", ResourceVersion: start}
	early, err := w.maps().Watch(w.ctx, options)
	if err != nil {
		t.Fatal(err)
	}
	defer early.Stop()
	const count = 20
	var expected []string
	for i := range count {
		name := fmt.Sprintf("watch-%d", i)
		created := w.createMap(t, name, "watch", "1")
		updated, err := w.maps().Patch(w.ctx, name, types.MergePatchType, []byte(`{"data": {"value": "2"}}`),
			meta.PatchOptions{})
		if err != nil {
			t.Fatal(err)
		}
		expected = append(expected, "ADDED "+name+" "+created.ResourceVersion, "MODIFIED "+name+" "+updated.ResourceVersion)
		switch i % 3 {
		case 0:
			if err := w.maps().Delete(w.ctx, name, meta.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			expected = append(expected, "DELETED "+name)
		case 1:
			// Losing its label looks like a deletion to a watch that asks for the label.
			_, err := w.maps().Patch(w.ctx, name, types.MergePatchType, []byte(`{"metadata": {"labels": {"group": null}}}`),
				meta.PatchOptions{})
			if err != nil {
				t.Fatal(err)
			}
			expected = append(expected, "DELETED "+name)
		}
	}
	late, err := w.maps().Watch(w.ctx, options)
	if err != nil {
		t.Fatal(err)
	}
	defer late.Stop()
	for kind, watcher := range map[string]watch.Interface{"early": early, "late": late} {
		last := start
		for i, want := range expected {
			event, err := nextEvent(watcher)
			if err != nil {
				t.Fatalf("%s watch, event %d, expected %s: %v", kind, i, want, err)
			}
			object, ok := event.Object.(*core.ConfigMap)
			if !ok {
				t.Fatalf("%s watch, event %d: %v", kind, i, event)
			}
			got := string(event.Type) + " " + object.Name
			if event.Type != watch.Deleted {
				got += " " + object.ResourceVersion
			}
			if got != want {
				t.Fatalf("%s watch, event %d: %s, expected %s", kind, i, got, want)
			}
			if later(t, last, object.ResourceVersion) {
				t.Errorf("%s watch, event %d: revision %s after %s", kind, i, object.ResourceVersion, last)
			}
			last = object.ResourceVersion
		}
	}
}

// later says whether one revision is above another.
func later(t *testing.T, a, b string) bool {
	t.Helper()
	order, err := resourceversion.CompareResourceVersion(a, b)
	if err != nil {
		t.Fatal(err)
	}
	return order > 0
}

func (w *work) watchListGivesState(t *testing.T) {
	for i := range 10 {
		w.createMap(t, fmt.Sprintf("state-%d", i), "state", "x")
	}
	send := true
	watcher, err := w.maps().Watch(w.ctx, meta.ListOptions{
		LabelSelector: "group=state", SendInitialEvents: &send, AllowWatchBookmarks: true,
		ResourceVersionMatch: meta.ResourceVersionMatchNotOlderThan,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer watcher.Stop()
	var added []string
	limit := time.After(20 * time.Second)
	for {
		var event watch.Event
		select {
		case event = <-watcher.ResultChan():
		case <-limit:
			t.Fatalf("no bookmark after the state within 20 s, seen %v", added)
		}
		object, ok := event.Object.(*core.ConfigMap)
		if !ok {
			t.Fatalf("%v", event)
		}
		if event.Type == watch.Bookmark {
			if object.Annotations[meta.InitialEventsAnnotationKey] == "true" {
				break
			}
			continue
		}
		added = append(added, string(event.Type)+" "+object.Name)
	}
	slices.Sort(added)
	if len(added) != 10 || added[0] != "ADDED state-0" || added[9] != "ADDED state-9" {
		t.Errorf("the state is %v", added)
	}
	w.createMap(t, "state-new", "state", "x")
	event, err := nextEvent(watcher)
	if err != nil {
		t.Fatal(err)
	}
	if object, ok := event.Object.(*core.ConfigMap); !ok || object.Name != "state-new" || event.Type != watch.Added {
		t.Errorf("after the state: %v", event)
	}
}

// incrementsAreCounted counts with compare-and-swap from several clients.
func (w *work) incrementsAreCounted(t *testing.T) {
	const clients, increments = 8, 25
	w.createMap(t, "counter", "counter", "0")
	var conflicts atomic.Int64
	var running sync.WaitGroup
	failures := make(chan error, clients)
	seen := make([][]string, clients)
	for client := range clients {
		running.Go(func() {
			for range increments {
				for {
					object, err := w.maps().Get(w.ctx, "counter", meta.GetOptions{})
					if err != nil {
						failures <- err
						return
					}
					var value int
					if _, err := fmt.Sscan(object.Data["value"], &value); err != nil {
						failures <- err
						return
					}
					object.Data["value"] = fmt.Sprint(value + 1)
					updated, err := w.maps().Update(w.ctx, object, meta.UpdateOptions{})
					if errors.IsConflict(err) {
						conflicts.Add(1)
						continue
					}
					if err != nil {
						failures <- err
						return
					}
					seen[client] = append(seen[client], updated.Data["value"])
					break
				}
			}
		})
	}
	running.Wait()
	select {
	case err := <-failures:
		t.Fatal(err)
	default:
	}
	object, err := w.maps().Get(w.ctx, "counter", meta.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if object.Data["value"] != fmt.Sprint(clients*increments) {
		t.Errorf("counted %s, expected %d", object.Data["value"], clients*increments)
	}
	// Each number was written by exactly one client.
	all := slices.Concat(seen...)
	slices.Sort(all)
	if unique := slices.Compact(slices.Clone(all)); len(unique) != clients*increments {
		t.Errorf("%d numbers written, %d different", len(all), len(unique))
	}
	t.Logf("%d conflicts", conflicts.Load())
}

func (w *work) oldUpdateConflicts(t *testing.T) {
	object := w.createMap(t, "conflict", "conflict", "1")
	newer := object.DeepCopy()
	newer.Data["value"] = "2"
	if _, err := w.maps().Update(w.ctx, newer, meta.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	object.Data["value"] = "3"
	if _, err := w.maps().Update(w.ctx, object, meta.UpdateOptions{}); !errors.IsConflict(err) {
		t.Errorf("an update at an old revision: %v", err)
	}
	if _, err := w.maps().Create(w.ctx, configMap("conflict", "conflict", "4"), meta.CreateOptions{}); !errors.IsAlreadyExists(err) {
		t.Errorf("a second create: %v", err)
	}
	err := w.maps().Delete(w.ctx, "conflict", meta.DeleteOptions{
		Preconditions: &meta.Preconditions{ResourceVersion: &object.ResourceVersion},
	})
	if !errors.IsConflict(err) {
		t.Errorf("a deletion at an old revision: %v", err)
	}
	current, err := w.maps().Get(w.ctx, "conflict", meta.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if current.Data["value"] != "2" {
		t.Errorf("the value is %q", current.Data["value"])
	}
	if err := w.maps().Delete(w.ctx, "conflict", meta.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.maps().Get(w.ctx, "conflict", meta.GetOptions{}); !errors.IsNotFound(err) {
		t.Errorf("after its deletion: %v", err)
	}
}

func (w *work) applyMerges(t *testing.T) {
	for _, field := range []string{"a", "b"} {
		_, err := w.maps().Apply(w.ctx,
			applycore.ConfigMap("applied", w.namespace).WithData(map[string]string{field: field}),
			meta.ApplyOptions{FieldManager: field})
		if err != nil {
			t.Fatal(err)
		}
	}
	object, err := w.maps().Get(w.ctx, "applied", meta.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if object.Data["a"] != "a" || object.Data["b"] != "b" {
		t.Errorf("data %v", object.Data)
	}
}

func (w *work) finalizerHolds(t *testing.T) {
	held := configMap("held", "held", "x")
	held.Finalizers = []string{"e2e.test/hold"}
	if _, err := w.maps().Create(w.ctx, held, meta.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := w.maps().Delete(w.ctx, "held", meta.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	object, err := w.maps().Get(w.ctx, "held", meta.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if object.DeletionTimestamp == nil {
		t.Error("no deletion timestamp")
	}
	_, err = w.maps().Patch(w.ctx, "held", types.MergePatchType, []byte(`{"metadata": {"finalizers": null}}`),
		meta.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.maps().Get(w.ctx, "held", meta.GetOptions{}); !errors.IsNotFound(err) {
		t.Errorf("after its last finalizer: %v", err)
	}
}

// namespaceDrains deletes a namespace with things in it.
func (w *work) namespaceDrains(t *testing.T) {
	inside := &work{plane: w.plane, ctx: w.ctx, namespace: "drained"}
	inside.createNamespace(t, inside.namespace)
	for i := range 50 {
		inside.createMap(t, fmt.Sprintf("thing-%d", i), "thing", "x")
	}
	inside.deploymentRuns(t)
	if err := w.plane.client.CoreV1().Namespaces().Delete(w.ctx, inside.namespace, meta.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, 90*time.Second, "the namespace is gone", func() error {
		namespace, err := w.plane.client.CoreV1().Namespaces().Get(w.ctx, inside.namespace, meta.GetOptions{})
		if errors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		return fmt.Errorf("conditions %v", namespace.Status.Conditions)
	})
	left, err := inside.maps().List(w.ctx, meta.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pods, err := w.plane.client.CoreV1().Pods(inside.namespace).List(w.ctx, meta.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(left.Items)+len(pods.Items) != 0 {
		t.Errorf("left in the namespace: %v and %d pods", names(left), len(pods.Items))
	}
}

// compactedIsGone waits for kube-apiserver's own compaction.
func (w *work) compactedIsGone(t *testing.T, revision string) {
	took := eventually(t, 4*compactionInterval, "revision "+revision+" is compacted", func() error {
		list, err := w.maps().List(w.ctx, meta.ListOptions{
			Limit: 1, ResourceVersion: revision, ResourceVersionMatch: meta.ResourceVersionMatchExact,
		})
		if errors.IsResourceExpired(err) || errors.IsGone(err) {
			return nil
		}
		if err != nil {
			t.Fatalf("a list at a compacted revision: %v", err)
		}
		return fmt.Errorf("still listed at revision %s", list.ResourceVersion)
	})
	t.Logf("after %s", took.Round(time.Millisecond))
}

// eventsExpire looks at events that were made with a lease.
func (w *work) eventsExpire(t *testing.T) {
	events := w.plane.client.CoreV1().Events(w.namespace)
	_, err := events.Create(w.ctx, &core.Event{
		ObjectMeta:     meta.ObjectMeta{Name: "short"},
		InvolvedObject: core.ObjectReference{Kind: "ConfigMap", Namespace: w.namespace, Name: "counter"},
		Reason:         "Test",
	}, meta.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	took := eventually(t, eventTTL+20*time.Second, "the event expires", func() error {
		_, err := events.Get(w.ctx, "short", meta.GetOptions{})
		if errors.IsNotFound(err) {
			return nil
		}
		if err == nil {
			err = fmt.Errorf("still there")
		}
		return err
	})
	if took < eventTTL-time.Second {
		t.Errorf("the event was gone after %s, its time to live is %s", took, eventTTL)
	}
}

// serverKeepsLease: kube-apiserver renews a key with a lease of 15 s; without it the Service has no address.
func (w *work) serverKeepsLease(t *testing.T) {
	slices, err := w.plane.client.DiscoveryV1().EndpointSlices("default").List(w.ctx,
		meta.ListOptions{LabelSelector: discovery.LabelServiceName + "=kubernetes"})
	if err != nil {
		t.Fatal(err)
	}
	var addresses []string
	for _, slice := range slices.Items {
		for _, endpoint := range slice.Endpoints {
			addresses = append(addresses, endpoint.Addresses...)
		}
	}
	if len(addresses) != 1 || addresses[0] != advertised {
		t.Errorf("service kubernetes has the addresses %v, expected %s", addresses, advertised)
	}
}
