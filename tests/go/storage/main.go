// Command storage-suites runs the storage tests of kube-apiserver (k8s.io/apiserver/pkg/storage/{etcd3,cacher} and
// storagebackend/factory, which has the tests with TLS) against a store and compares the number of sub-tests that passed, failed and were skipped with etcd's.
//
// The suites are test binaries that tests/go/build has compiled; each of their tests starts a store of its own.
package main

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"
)

// counts are numbers of sub-tests, each counted with its parents.
type counts struct {
	passed, failed, skipped int
}

// suite is one of upstream's packages and what etcd 3.7.3 makes of it (the skips are upstream's own).
type suite struct {
	name string
	// path below k8s.io/apiserver/pkg/storage.
	path     string
	expected counts
}

var suites = []suite{
	{"etcd3", "etcd3", counts{passed: 509}},
	{"cacher", "cacher", counts{passed: 645, skipped: 4}},
	{"factory", "storagebackend/factory", counts{passed: 17}},
}

// killAfter bounds a suite's run from outside; the test binary's own limit is shorter and says more.
const killAfter = 17 * time.Minute

type options struct {
	store, program, directory, logs, run string
}

// result is what a run of a suite showed.
type result struct {
	counts
	panics   []string
	failures []string
	exit     error
	took     time.Duration
	log      string
}

var (
	outcome = regexp.MustCompile(`^\s*--- (PASS|FAIL|SKIP): (\S+)`)
	// A panic ends all later tests silently.
	panicked = regexp.MustCompile(`^(panic: |fatal error: |\s+panic: )`)
)

// read counts the outcomes in a test binary's output and copies it to the log.
func (r *result) read(output io.Reader, log io.Writer) {
	scanner := bufio.NewScanner(output)
	scanner.Buffer(make([]byte, 64<<10), 64<<20)
	for scanner.Scan() {
		line := scanner.Text()
		fmt.Fprintln(log, line)
		if match := outcome.FindStringSubmatch(line); match != nil {
			switch match[1] {
			case "PASS":
				r.passed++
			case "SKIP":
				r.skipped++
			case "FAIL":
				r.failed++
				r.failures = append(r.failures, match[2])
			}
		} else if panicked.MatchString(line) {
			r.panics = append(r.panics, line)
		}
	}
	if err := scanner.Err(); err != nil {
		r.panics = append(r.panics, "output not read to its end: "+err.Error())
	}
}

// leaves drops the failed tests that failed only because of a sub-test.
func leaves(failures []string) []string {
	var found []string
	for _, name := range failures {
		parent := false
		for _, other := range failures {
			parent = parent || strings.HasPrefix(other, name+"/")
		}
		if !parent {
			found = append(found, name)
		}
	}
	return found
}

func (s suite) execute(o options) (r result, err error) {
	r.log = filepath.Join(o.logs, "storage-"+s.name+"-"+o.store+".log")
	log, err := os.Create(r.log)
	if err != nil {
		return r, err
	}
	defer log.Close()
	arguments := []string{"-test.v", "-test.parallel", "2", "-test.timeout", "15m"}
	if o.run != "" {
		arguments = append(arguments, "-test.run", o.run)
	}
	command := exec.Command(filepath.Join(o.directory, "bin", "storage-"+s.name+".test"), arguments...)
	// The tests read upstream's files by relative paths.
	command.Dir = filepath.Join(o.directory, "storage", "apiserver", "pkg", "storage", s.path)
	command.Env = append(os.Environ(), "TEST_STORE="+o.store, "TEST_STORE_BIN="+o.program)
	// The stores stay in the group of the test binary, so that its end is theirs.
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	reader, writer := io.Pipe()
	command.Stdout, command.Stderr = writer, writer
	began := time.Now()
	if err := command.Start(); err != nil {
		return r, err
	}
	stop := func() { _ = syscall.Kill(-command.Process.Pid, syscall.SIGKILL) }
	limit := time.AfterFunc(killAfter, stop)
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM)
	go func() {
		if _, open := <-interrupted; open {
			stop()
		}
	}()
	defer close(interrupted)
	defer signal.Stop(interrupted)
	var reading sync.WaitGroup
	reading.Go(func() { r.read(reader, log) })
	// A store that outlives a panic would hold the pipe open for ever.
	command.WaitDelay = 5 * time.Second
	r.exit = command.Wait()
	limit.Stop()
	stop()
	writer.Close()
	reading.Wait()
	r.took = time.Since(began)
	return r, nil
}

// report prints the outcome of a suite and returns whether it is as expected.
func (s suite) report(r result, whole bool) bool {
	fmt.Printf("storage %s: %d passed, %d failed, %d skipped in %.0f s",
		s.name, r.passed, r.failed, r.skipped, r.took.Seconds())
	good := r.failed == 0 && r.passed > 0 && len(r.panics) == 0 && r.exit == nil
	if whole {
		fmt.Printf(" (etcd: %d, %d, %d)", s.expected.passed, s.expected.failed, s.expected.skipped)
		good = good && r.counts == s.expected
	}
	fmt.Println()
	for _, line := range r.panics {
		fmt.Printf("  %s\n", line)
	}
	for _, name := range leaves(r.failures) {
		fmt.Printf("  failed: %s\n", name)
	}
	if r.exit != nil {
		fmt.Printf("  the test binary ended with: %v\n", r.exit)
	}
	if !good {
		fmt.Printf("  output: %s\n", r.log)
	}
	return good
}

func main() {
	home, _ := os.UserHomeDir()
	cache := os.Getenv("DQLITED_CACHE")
	if cache == "" {
		cache = filepath.Join(home, ".cache", "dqlited")
	}
	var o options
	flag.StringVar(&o.store, "store", "dqlited", "kind of store: dqlited or etcd")
	flag.StringVar(&o.program, "program", "", "the store's program (etcd: the one that tests/go/build built)")
	flag.StringVar(&o.directory, "cache", cache, "where tests/go/build put its results")
	flag.StringVar(&o.logs, "logs", os.TempDir(), "directory for the suites' output")
	flag.StringVar(&o.run, "run", "", "run only the tests that match, and compare no numbers")
	together := flag.Bool("together", false, "run the suites at the same time")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: storage-suites [flags] [etcd3|cacher|factory]")
		flag.PrintDefaults()
	}
	flag.Parse()
	if o.program == "" && o.store == "etcd" {
		o.program = filepath.Join(o.directory, "bin", "etcd")
	}
	if _, err := os.Stat(o.program); err != nil {
		fmt.Fprintf(os.Stderr, "error: --program %q: %v\n", o.program, err)
		os.Exit(2)
	}
	o.program, _ = filepath.Abs(o.program)

	chosen := suites
	if flag.NArg() > 0 {
		chosen = nil
		for _, s := range suites {
			for _, name := range flag.Args() {
				if s.name == name {
					chosen = append(chosen, s)
				}
			}
		}
		if len(chosen) != flag.NArg() {
			flag.Usage()
			os.Exit(2)
		}
	}

	results := make([]result, len(chosen))
	errors := make([]error, len(chosen))
	var running sync.WaitGroup
	for i, s := range chosen {
		running.Go(func() { results[i], errors[i] = s.execute(o) })
		if !*together {
			running.Wait()
		}
	}
	running.Wait()

	var total counts
	good := true
	for i, s := range chosen {
		if errors[i] != nil {
			fmt.Printf("storage %s: not run: %v\n", s.name, errors[i])
			good = false
			continue
		}
		good = s.report(results[i], o.run == "") && good
		total.passed += results[i].passed
		total.failed += results[i].failed
	}
	verdict := "as etcd"
	if !good {
		verdict = "NOT as etcd"
	}
	fmt.Printf("storage suites on %s: %d passed, %d failed, %s\n", o.store, total.passed, total.failed, verdict)
	if !good {
		os.Exit(1)
	}
}
