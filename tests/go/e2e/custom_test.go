package e2e

import (
	"fmt"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
)

// customResourcesWork defines a resource, uses it and takes it away again.
func (w *work) customResourcesWork(t *testing.T) {
	definitions := w.plane.dynamic.Resource(schema.GroupVersionResource{
		Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions",
	})
	_, err := definitions.Create(w.ctx, &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apiextensions.k8s.io/v1",
		"kind":       "CustomResourceDefinition",
		"metadata":   map[string]any{"name": "wells.e2e.test"},
		"spec": map[string]any{
			"group": "e2e.test",
			"scope": "Namespaced",
			"names": map[string]any{"plural": "wells", "singular": "well", "kind": "Well", "listKind": "WellList"},
			"versions": []any{map[string]any{
				"name": "v1", "served": true, "storage": true,
				"schema": map[string]any{"openAPIV3Schema": map[string]any{
					"type": "object",
					"properties": map[string]any{"spec": map[string]any{
						"type": "object", "properties": map[string]any{"depth": map[string]any{"type": "integer"}},
					}},
				}},
			}},
		},
	}}, meta.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	wells := w.plane.dynamic.Resource(schema.GroupVersionResource{Group: "e2e.test", Version: "v1", Resource: "wells"}).
		Namespace(w.namespace)
	var start string
	eventually(t, 30*time.Second, "the new resource is served", func() error {
		list, err := wells.List(w.ctx, meta.ListOptions{})
		if err != nil {
			return err
		}
		start = list.GetResourceVersion()
		return nil
	})
	watcher, err := wells.Watch(w.ctx, meta.ListOptions{ResourceVersion: start})
	if err != nil {
		t.Fatal(err)
	}
	defer watcher.Stop()
	var last *unstructured.Unstructured
	for i := range 5 {
		// A definition is established a moment before all of the server knows it.
		eventually(t, 30*time.Second, "a custom resource is created", func() error {
			last, err = wells.Create(w.ctx, &unstructured.Unstructured{Object: map[string]any{
				"apiVersion": "e2e.test/v1", "kind": "Well",
				"metadata": map[string]any{"name": fmt.Sprintf("well-%d", i)},
				"spec":     map[string]any{"depth": int64(i)},
			}}, meta.CreateOptions{})
			if errors.IsAlreadyExists(err) {
				t.Fatal(err)
			}
			return err
		})
		event, err := nextEvent(watcher)
		if err != nil {
			t.Fatal(err)
		}
		object, ok := event.Object.(*unstructured.Unstructured)
		if !ok || event.Type != watch.Added || object.GetName() != last.GetName() ||
			object.GetResourceVersion() != last.GetResourceVersion() {
			t.Errorf("created %s at %s, the watch says %v", last.GetName(), last.GetResourceVersion(), event)
		}
	}
	list, err := wells.List(w.ctx, meta.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(list.Items) != 5 {
		t.Errorf("%d custom resources", len(list.Items))
	}
	stale := last.DeepCopy()
	if err := unstructured.SetNestedField(last.Object, int64(99), "spec", "depth"); err != nil {
		t.Fatal(err)
	}
	if _, err := wells.Update(w.ctx, last, meta.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := unstructured.SetNestedField(stale.Object, int64(98), "spec", "depth"); err != nil {
		t.Fatal(err)
	}
	if _, err := wells.Update(w.ctx, stale, meta.UpdateOptions{}); !errors.IsConflict(err) {
		t.Errorf("an update at an old revision: %v", err)
	}
	if err := definitions.Delete(w.ctx, "wells.e2e.test", meta.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, 60*time.Second, "the definition is gone", func() error {
		_, err := definitions.Get(w.ctx, "wells.e2e.test", meta.GetOptions{})
		if errors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("still there (%v)", err)
	})
}
