package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// store is the program under test: dqlited, or etcd to compare with.
type store struct {
	kind, program, data, logs string
	clientURL, peerURL        string
	process                   *process
	// whole is the test that the store lives as long as, even if a part of it starts the store again.
	whole *testing.T
	// spent by the processes that were killed.
	spent usage
	// kills are the times at which it was killed.
	kills []time.Time
}

// cacheDirectory is where tests/go/build puts its results.
func cacheDirectory() string {
	if directory := os.Getenv("DQLITED_CACHE"); directory != "" {
		return directory
	}
	home, _ := os.UserHomeDir()
	return filepath.Join(home, ".cache", "dqlited")
}

// newStore reads TEST_STORE (dqlited or etcd) and TEST_STORE_BIN, and chooses ports and a directory.
func newStore(t *testing.T, logs string) *store {
	t.Helper()
	s := &store{kind: os.Getenv("TEST_STORE"), program: os.Getenv("TEST_STORE_BIN"), logs: logs, whole: t}
	switch s.kind {
	case "etcd":
		if s.program == "" {
			s.program = filepath.Join(cacheDirectory(), "bin", "etcd")
		}
	case "dqlited":
		if s.program == "" {
			t.Fatal("TEST_STORE_BIN names no program")
		}
	default:
		t.Fatalf("TEST_STORE is %q, expected dqlited or etcd", s.kind)
	}
	ports := freePorts(t, 2)
	s.clientURL = fmt.Sprintf("http://127.0.0.1:%d", ports[0])
	s.peerURL = fmt.Sprintf("http://127.0.0.1:%d", ports[1])
	s.data = filepath.Join(t.TempDir(), "data")
	return s
}

// start runs the program on its directory and waits until it accepts connections.
func (s *store) start(t *testing.T) {
	t.Helper()
	command := []string{s.program}
	if s.kind == "dqlited" {
		command = append(command, "start")
	}
	command = append(command,
		"--name=one",
		"--data-dir="+s.data,
		"--listen-client-urls="+s.clientURL,
		"--advertise-client-urls="+s.clientURL,
		"--listen-peer-urls="+s.peerURL,
		"--initial-advertise-peer-urls="+s.peerURL,
		"--initial-cluster=one="+s.peerURL,
		// As kubeadm starts etcd.
		"--watch-progress-notify-interval=5s",
	)
	s.process = startProcess(s.whole, s.logs, "store", nil, command...)
	eventually(t, 60*time.Second, "the store accepts connections", func() error {
		if s.process.hasExited() {
			t.Fatalf("the store ended: %v\n%s", s.process.exit, s.process.tail(15))
		}
		dialer := net.Dialer{Timeout: time.Second}
		connection, err := dialer.DialContext(context.Background(), "tcp", s.clientURL[len("http://"):])
		if err == nil {
			connection.Close()
		}
		return err
	})
}

// kill ends the store without a warning and remembers what it has spent.
func (s *store) kill(t *testing.T) {
	t.Helper()
	spent, err := s.process.usage()
	if err != nil {
		t.Fatal(err)
	}
	s.spent = s.spent.add(spent)
	s.kills = append(s.kills, time.Now())
	s.process.kill(t)
}

// usage is what all processes of the store have taken.
func (s *store) usage(t *testing.T) usage {
	t.Helper()
	now, err := s.process.usage()
	if err != nil {
		t.Fatal(err)
	}
	return s.spent.add(now)
}
