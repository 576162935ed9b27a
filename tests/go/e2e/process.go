// Package e2e runs a real Kubernetes control plane on a store and looks at what it does.
package e2e

import (
	"bytes"
	"fmt"
	"math/rand"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// process is a running program in a process group of its own; its output goes to a file.
type process struct {
	name    string
	pid     int
	log     string
	exited  chan struct{}
	exit    error
	wanted  atomic.Bool
	command []string
}

// starts is the door to one thread that starts all programs and lives as long as the test: the kernel ends a
// program (Pdeathsig) with the thread that started it, so nothing outlives a test binary that panics.
var starts = func() chan<- func() {
	queue := make(chan func())
	go func() {
		runtime.LockOSThread()
		for start := range queue {
			start()
		}
	}()
	return queue
}()

// withoutSettings leaves out what the tests themselves are told and dqlited would take for settings.
func withoutSettings(environment []string) []string {
	return slices.DeleteFunc(environment, func(variable string) bool {
		return strings.HasPrefix(variable, "DQLITED_")
	})
}

// startProcess runs a program until it is stopped or the test ends. Its output is appended to `logs/name.log`.
func startProcess(t *testing.T, logs, name string, environment []string, command ...string) *process {
	t.Helper()
	p := &process{
		name: name, log: filepath.Join(logs, name+".log"), exited: make(chan struct{}), command: command,
	}
	file, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	run := exec.Command(command[0], command[1:]...)
	run.Stdout, run.Stderr = file, file
	run.Env = append(withoutSettings(os.Environ()), environment...)
	run.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	starts <- func() { started <- run.Start() }
	if err := <-started; err != nil {
		t.Fatalf("start of %s: %v", name, err)
	}
	p.pid = run.Process.Pid
	go func() {
		p.exit = run.Wait()
		close(p.exited)
	}()
	t.Cleanup(func() {
		ended := p.hasExited()
		p.signal(syscall.SIGKILL)
		<-p.exited
		if ended && !p.wanted.Load() {
			t.Errorf("%s ended by itself: %v\n%s", name, p.exit, p.tail(15))
		}
	})
	return p
}

func (p *process) hasExited() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

// signal reaches the whole group, and nothing if the program has ended and was waited for.
func (p *process) signal(signal syscall.Signal) {
	if !p.hasExited() {
		_ = syscall.Kill(-p.pid, signal)
	}
}

// kill ends the program without a warning.
func (p *process) kill(t *testing.T) {
	t.Helper()
	if p.hasExited() {
		t.Fatalf("%s ended by itself: %v\n%s", p.name, p.exit, p.tail(15))
	}
	p.wanted.Store(true)
	p.signal(syscall.SIGKILL)
	<-p.exited
}

// stop asks the program to end and returns how it did.
func (p *process) stop(t *testing.T, limit time.Duration) error {
	t.Helper()
	if p.hasExited() {
		t.Fatalf("%s ended by itself: %v\n%s", p.name, p.exit, p.tail(15))
	}
	p.wanted.Store(true)
	p.signal(syscall.SIGTERM)
	select {
	case <-p.exited:
		return p.exit
	case <-time.After(limit):
		return fmt.Errorf("%s still runs %s after SIGTERM\n%s", p.name, limit, p.tail(15))
	}
}

// tail returns the last lines that the program wrote.
func (p *process) tail(lines int) string {
	raw, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	all := bytes.Split(bytes.TrimRight(raw, "\n"), []byte("\n"))
	return string(bytes.Join(all[max(0, len(all)-lines):], []byte("\n")))
}

// usage is what a program has taken from the machine.
type usage struct {
	cpu          time.Duration
	writtenBytes int64
	// rssBytes is resident now, peakBytes the most that ever was.
	rssBytes, peakBytes int64
}

// ticksPerSecond is the unit of /proc/PID/stat, the same on every Linux that Go runs on.
const ticksPerSecond = 100

func (p *process) usage() (usage, error) {
	var u usage
	directory := fmt.Sprintf("/proc/%d/", p.pid)
	raw, err := os.ReadFile(directory + "stat")
	if err != nil {
		return u, err
	}
	// The second field is the name in parentheses and may hold spaces.
	fields := strings.Fields(string(raw[bytes.LastIndexByte(raw, ')')+1:]))
	user, err := strconv.ParseInt(fields[11], 10, 64)
	if err != nil {
		return u, err
	}
	system, err := strconv.ParseInt(fields[12], 10, 64)
	if err != nil {
		return u, err
	}
	u.cpu = time.Duration(user+system) * time.Second / ticksPerSecond
	for file, wanted := range map[string]map[string]*int64{
		"io":     {"write_bytes:": &u.writtenBytes},
		"status": {"VmRSS:": &u.rssBytes, "VmHWM:": &u.peakBytes},
	} {
		raw, err := os.ReadFile(directory + file)
		if err != nil {
			return u, err
		}
		for _, line := range strings.Split(string(raw), "\n") {
			fields := strings.Fields(line)
			if len(fields) < 2 || wanted[fields[0]] == nil {
				continue
			}
			value, err := strconv.ParseInt(fields[1], 10, 64)
			if err != nil {
				return u, err
			}
			if len(fields) > 2 && fields[2] == "kB" {
				value *= 1024
			}
			*wanted[fields[0]] = value
		}
	}
	return u, nil
}

// add counts a program's successor to it.
func (u usage) add(other usage) usage {
	return usage{
		cpu:          u.cpu + other.cpu,
		writtenBytes: u.writtenBytes + other.writtenBytes,
		rssBytes:     other.rssBytes,
		peakBytes:    max(u.peakBytes, other.peakBytes),
	}
}

// String is one line for comparing two stores under the same load.
func (u usage) String() string {
	mebibytes := func(bytes int64) float64 { return float64(bytes) / (1 << 20) }
	return fmt.Sprintf("cpu=%.2fs written=%.1fMiB rss=%.1fMiB peak=%.1fMiB",
		u.cpu.Seconds(), mebibytes(u.writtenBytes), mebibytes(u.rssBytes), mebibytes(u.peakBytes))
}

// freePorts returns ports of the loopback address that nothing listens on. They lie below the range that the
// kernel gives to outgoing connections: the programs bind them later, and hundreds of connections are made
// meanwhile.
func freePorts(t *testing.T, count int) []int {
	t.Helper()
	low := 32768
	if raw, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range"); err == nil {
		if fields := strings.Fields(string(raw)); len(fields) == 2 {
			if value, err := strconv.Atoi(fields[0]); err == nil && value > 12000 {
				low = value
			}
		}
	}
	var ports []int
	for attempt := 0; attempt < 1000 && len(ports) < count; attempt++ {
		port := 10000 + rand.Intn(low-10000)
		listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		// Open until all are found, so that none is found twice.
		defer listener.Close()
		ports = append(ports, port)
	}
	if len(ports) < count {
		t.Fatalf("no %d free ports below %d", count, low)
	}
	return ports
}

// eventually asks until the answer is no error, at most `limit` long; then the test ends with the last error.
func eventually(t *testing.T, limit time.Duration, what string, ask func() error) time.Duration {
	t.Helper()
	began := time.Now()
	for {
		err := ask()
		if err == nil {
			return time.Since(began)
		}
		if time.Since(began) > limit {
			t.Fatalf("%s: not within %s: %v", what, limit, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
