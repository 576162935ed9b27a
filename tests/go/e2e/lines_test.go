package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

func TestLinesAreAllowedOnlyWhereTheFileSaysSo(t *testing.T) {
	allowed, err := allowances("# reason\n^W a\\.go .*expected etcd\nafter kill: ^E b\\.go etcd is away\n")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "log")
	err = os.WriteFile(path, []byte(`I1124 10:00:00.000001    7 a.go:1] etcd is mentioned below warning
W1124 10:00:00.000002    7 a.go:2] "an expected etcd"
E1124 10:00:05.000000   17 b.go:3] etcd is away soon after the kill
E1124 10:00:30.000000   17 b.go:3] etcd is away long after the kill
W1124 10:00:31.000000   17 c.go:4] nothing of interest
{"level":"warn","ts":"2026-11-24T10:00:00Z","logger":"etcd-client","msg":"retry","method":"/KV/Txn","error":"away"}
panic: the end
`), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	lines, others, err := storeLines(path)
	if err != nil {
		t.Fatal(err)
	}
	if others != 1 || len(lines) != 5 {
		t.Errorf("%d others, lines %v", others, lines)
	}
	kill := time.Date(time.Now().Year(), 11, 24, 10, 0, 4, 0, time.Local)
	strange := strangeLines(lines, allowed, []time.Time{kill})
	expected := []string{
		"E b.go etcd is away long after the kill", "warn etcd-client: retry: /KV/Txn: away", "panic: the end",
	}
	if !slices.Equal(strange, expected) {
		t.Errorf("strange are %q", strange)
	}
	if _, err := allowances("^no reason\n"); err == nil {
		t.Error("a pattern without a reason was taken")
	}
	if _, err := allowances(allowedLines); err != nil {
		t.Error(err)
	}
}
