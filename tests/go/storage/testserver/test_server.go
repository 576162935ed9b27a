// Package testserver takes the place of k8s.io/apiserver/pkg/storage/etcd3/testserver when the storage suites
// of kube-apiserver are compiled (`go test -overlay`): the same two functions, but the server is a program of
// its own instead of an etcd inside of the test binary.
//
// TEST_STORE says which kind of program ("dqlited" or "etcd"), TEST_STORE_BIN where it is.
package testserver

import (
	"bytes"
	"context"
	"fmt"
	"math/rand"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/kubernetes"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest"
	storagetesting "k8s.io/apiserver/pkg/storage/testing"
)

// startTimeout bounds the wait from the start of the program to its first answer.
const startTimeout = 60 * time.Second

// lowestEphemeralPort returns the first port that the kernel gives to outgoing connections.
func lowestEphemeralPort() int {
	raw, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		return 32768
	}
	fields := strings.Fields(string(raw))
	if len(fields) != 2 {
		return 32768
	}
	low, err := strconv.Atoi(fields[0])
	if err != nil || low < 12000 {
		return 32768
	}
	return low
}

// freePorts returns ports of the loopback address that nothing listens on. They lie below the range of outgoing
// connections: the program binds them some milliseconds later, and a client of a test that runs beside this one
// must not get one in between.
func freePorts(count int) ([]int, error) {
	low := lowestEphemeralPort()
	var ports []int
	for attempt := 0; attempt < 1000 && len(ports) < count; attempt++ {
		port := 10000 + rand.Intn(low-10000)
		listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			continue
		}
		// Open until all are found, so that none is found twice.
		defer listener.Close()
		ports = append(ports, port)
	}
	if len(ports) < count {
		return nil, fmt.Errorf("no free port below %d", low)
	}
	return ports, nil
}

// NewTestConfig returns the configuration of a server with free ports and a data directory of its own.
func NewTestConfig(t testing.TB) *embed.Config {
	cfg := embed.NewConfig()
	cfg.UnsafeNoFsync = true

	ports, err := freePorts(2)
	if err != nil {
		t.Fatal(err)
	}
	clientURL := url.URL{Scheme: "http", Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(ports[0]))}
	peerURL := url.URL{Scheme: "http", Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(ports[1]))}
	cfg.ListenPeerUrls = []url.URL{peerURL}
	cfg.AdvertisePeerUrls = []url.URL{peerURL}
	cfg.ListenClientUrls = []url.URL{clientURL}
	cfg.AdvertiseClientUrls = []url.URL{clientURL}
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	cfg.Dir = t.TempDir()
	if err := os.Chmod(cfg.Dir, 0700); err != nil {
		t.Fatal(err)
	}
	return cfg
}

// command returns the program's command line for a configuration.
func command(t testing.TB, cfg *embed.Config) *exec.Cmd {
	kind, program := os.Getenv("TEST_STORE"), os.Getenv("TEST_STORE_BIN")
	if program == "" {
		t.Fatal("TEST_STORE_BIN names no program")
	}
	var args []string
	switch kind {
	case "dqlited":
		args = append(args, "start")
	case "etcd":
		// Upstream runs its embedded etcd so; ours always syncs.
		if cfg.UnsafeNoFsync {
			args = append(args, "--unsafe-no-fsync")
		}
		args = append(args, "--log-level=warn")
	default:
		t.Fatalf("TEST_STORE is %q, expected dqlited or etcd", kind)
	}
	args = append(args,
		"--name="+cfg.Name,
		"--data-dir="+cfg.Dir,
		"--listen-client-urls="+cfg.ListenClientUrls[0].String(),
		"--advertise-client-urls="+cfg.AdvertiseClientUrls[0].String(),
		"--listen-peer-urls="+cfg.ListenPeerUrls[0].String(),
		"--initial-advertise-peer-urls="+cfg.AdvertisePeerUrls[0].String(),
		"--initial-cluster="+cfg.InitialCluster,
	)
	if interval := cfg.WatchProgressNotifyInterval; interval != 0 {
		args = append(args, "--watch-progress-notify-interval="+interval.String())
	}
	tls := cfg.ClientTLSInfo
	for flag, file := range map[string]string{
		"--cert-file=": tls.CertFile, "--key-file=": tls.KeyFile, "--trusted-ca-file=": tls.TrustedCAFile,
	} {
		if file != "" {
			args = append(args, flag+file)
		}
	}
	if tls.ClientCertAuth {
		args = append(args, "--client-cert-auth")
	}
	command := exec.Command(program, args...)
	// What the tests themselves are told, dqlited would take for settings.
	command.Env = slices.DeleteFunc(os.Environ(), func(variable string) bool {
		return strings.HasPrefix(variable, "DQLITED_")
	})
	return command
}

// server is a running program and what it wrote.
type server struct {
	command *exec.Cmd
	log     string
	exited  chan struct{}

	mutex    sync.Mutex
	stopping bool
	client   *kubernetes.Client
}

// start runs the program; it ends with the test, and a test during which it ended by itself fails.
func start(t testing.TB, cfg *embed.Config) *server {
	s := &server{command: command(t, cfg), exited: make(chan struct{})}
	// Beside the data directory and not in it: a store may refuse a directory with strange files.
	s.log = filepath.Join(t.TempDir(), "store.log")
	file, err := os.Create(s.log)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	// No process group of its own: the runner ends the group of the test binary, so that nothing outlives a
	// test binary that ended by a panic.
	s.command.Stdout, s.command.Stderr = file, file
	if err := s.command.Start(); err != nil {
		t.Fatalf("start of the store: %v", err)
	}
	go func() {
		err := s.command.Wait()
		s.mutex.Lock()
		if !s.stopping {
			t.Errorf("the store ended by itself: %v", err)
			// Else the client would try again until the time limit of all tests.
			if s.client != nil {
				s.client.Close()
			}
		}
		s.mutex.Unlock()
		close(s.exited)
	}()
	t.Cleanup(func() {
		s.mutex.Lock()
		s.stopping = true
		s.mutex.Unlock()
		// Refused only if the process has ended already.
		_ = s.command.Process.Kill()
		<-s.exited
		if t.Failed() {
			t.Logf("last lines of the store's log:\n%s", s.tail(40))
		}
	})
	return s
}

// tail returns the last lines that the program wrote.
func (s *server) tail(lines int) string {
	raw, err := os.ReadFile(s.log)
	if err != nil {
		return err.Error()
	}
	all := bytes.Split(bytes.TrimRight(raw, "\n"), []byte("\n"))
	return string(bytes.Join(all[max(0, len(all)-lines):], []byte("\n")))
}

// waitForPort returns once the program accepts a connection. gRPC is not asked earlier: a refused first
// connection costs its client a second of back-off.
func (s *server) waitForPort(t testing.TB, address string) {
	deadline := time.Now().Add(startTimeout)
	for {
		connection, err := net.DialTimeout("tcp", address, time.Second)
		if err == nil {
			connection.Close()
			return
		}
		select {
		case <-s.exited:
			t.Fatalf("the store ended before it listened on %s:\n%s", address, s.tail(40))
		case <-time.After(3 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatalf("the store does not listen on %s after %s: %v\n%s", address, startTimeout, err, s.tail(40))
		}
	}
}

// waitForAnswer returns once a read that needs a leader succeeds.
func (s *server) waitForAnswer(t testing.TB, client *kubernetes.Client) {
	deadline := time.Now().Add(startTimeout)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		_, err := client.KV.Get(ctx, "health")
		cancel()
		if err == nil {
			return
		}
		select {
		case <-s.exited:
			t.Fatalf("the store ended before it answered:\n%s", s.tail(40))
		case <-time.After(10 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatalf("the store answers no Get after %s: %v\n%s", startTimeout, err, s.tail(40))
		}
	}
}

var autoPortLock sync.Mutex

// RunEtcd starts a store with the configuration (or NewTestConfig(t) if nil) and returns a client of it. The store
// is killed when the test ends.
func RunEtcd(t testing.TB, cfg *embed.Config) *kubernetes.Client {
	t.Helper()

	if cfg == nil {
		// Two tests must not choose the same ports before one of them listens.
		autoPortLock.Lock()
		defer autoPortLock.Unlock()
		cfg = NewTestConfig(t)
	}
	s := start(t, cfg)
	s.waitForPort(t, cfg.ListenClientUrls[0].Host)

	tlsConfig, err := cfg.ClientTLSInfo.ClientConfig()
	if err != nil {
		t.Fatal(err)
	}
	client, err := kubernetes.New(clientv3.Config{
		TLS:         tlsConfig,
		Endpoints:   []string{cfg.AdvertiseClientUrls[0].String()},
		DialTimeout: 10 * time.Second,
		Logger:      zaptest.NewLogger(t, zaptest.Level(zapcore.ErrorLevel)).Named("etcd-client"),
	})
	if err != nil {
		t.Fatal(err)
	}
	s.waitForAnswer(t, client)
	s.mutex.Lock()
	s.client = client
	s.mutex.Unlock()

	// Upstream's recorders: some tests count the calls.
	recorder := storagetesting.NewKubernetesRecorder(client.Kubernetes)
	client.KV = storagetesting.NewKVRecorder(client.KV, recorder)
	client.Kubernetes = recorder
	return client
}
