//go:build suites

// The suites are built by `go test -c` from upstream's packages. Naming them here keeps what their tests need
// in go.mod and go.sum; the tag keeps them out of the runner.
package main

import (
	_ "k8s.io/apiserver/pkg/storage/cacher"
	_ "k8s.io/apiserver/pkg/storage/etcd3"
	_ "k8s.io/apiserver/pkg/storage/storagebackend/factory"
)
