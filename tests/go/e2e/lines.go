package e2e

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"
)

// allowedLines are patterns of what kube-apiserver says about etcd in the very same test; the file says how they are
// written.
//
//go:embed allowed-lines.txt
var allowedLines string

// killWindow is how long after a kill of the store the lines about broken connections are expected: gRPC tries again
// after 1 s, then 1.6 s.
const killWindow = 10 * time.Second

var (
	// klogLine is a line of klog at warning or above.
	klogLine = regexp.MustCompile(`^([WEF])(\d{4} \S+) +\d+ ([^:\]]+):\d+\] (.*)$`)
	// aboutStore is what a line says if the store can be its cause.
	aboutStore = regexp.MustCompile(`(?i)etcd|grpc|rpc error|storage|store|cacher|watch ?cache|watch chan|compact|` +
		`watcher|latest state|resource ?version|revision|deadline|timeout|timed out|transport|reflector|unavailable|` +
		`lease|bookmark|progress|panic|observed a`)
	crashed = regexp.MustCompile(`^(panic: |fatal error: )`)
)

// logLine is a line at warning or above: its level, its source file and what it says.
type logLine struct {
	at   time.Time
	text string
}

// storeLines returns the lines at warning or above that are about the store, and the number of other lines at
// warning or above. A crash counts as a line.
func storeLines(path string) (lines []logLine, others int, err error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, 0, err
	}
	for _, line := range strings.Split(string(raw), "\n") {
		if crashed.MatchString(line) {
			lines = append(lines, logLine{text: line})
			continue
		}
		if strings.HasPrefix(line, "{") {
			// The etcd client inside of kube-apiserver.
			var fields struct {
				Level, Logger, Msg, Method, Error string
				TS                                time.Time
			}
			if err := json.Unmarshal([]byte(line), &fields); err != nil {
				return nil, 0, fmt.Errorf("%s: %w", line, err)
			}
			if fields.Level != "debug" && fields.Level != "info" {
				lines = append(lines, logLine{fields.TS,
					fmt.Sprintf("%s %s: %s: %s: %s", fields.Level, fields.Logger, fields.Msg, fields.Method, fields.Error)})
			}
			continue
		}
		match := klogLine.FindStringSubmatch(line)
		if match == nil {
			continue
		}
		// klog writes no year.
		at, err := time.ParseInLocation("2006 0102 15:04:05.000000",
			fmt.Sprintf("%d %s", time.Now().Year(), match[2]), time.Local)
		if err != nil {
			return nil, 0, fmt.Errorf("%s: %w", line, err)
		}
		if text := match[1] + " " + match[3] + " " + match[4]; aboutStore.MatchString(text) {
			lines = append(lines, logLine{at, text})
		} else {
			others++
		}
	}
	return lines, others, nil
}

// allowance is one line of the file of allowed lines.
type allowance struct {
	pattern *regexp.Regexp
	// afterKill: only within the window after a kill of the store.
	afterKill bool
}

// allowances reads the file: every pattern needs a reason above it.
func allowances(file string) ([]allowance, error) {
	var found []allowance
	reason := false
	for number, line := range strings.Split(file, "\n") {
		expression, afterKill := strings.CutPrefix(line, "after kill: ")
		switch {
		case strings.TrimSpace(line) == "":
			reason = false
		case strings.HasPrefix(line, "#"):
			reason = true
		case !reason:
			return nil, fmt.Errorf("allowed-lines.txt:%d: a pattern without a reason above it", number+1)
		default:
			pattern, err := regexp.Compile(expression)
			if err != nil {
				return nil, fmt.Errorf("allowed-lines.txt:%d: %w", number+1, err)
			}
			found = append(found, allowance{pattern, afterKill})
		}
	}
	return found, nil
}

// strangeLines returns the lines that nothing allows, each once.
func strangeLines(lines []logLine, allowed []allowance, kills []time.Time) []string {
	var strange []string
	for _, line := range lines {
		killed := slices.ContainsFunc(kills, func(kill time.Time) bool {
			return !line.at.Before(kill) && line.at.Before(kill.Add(killWindow))
		})
		known := slices.ContainsFunc(allowed, func(a allowance) bool {
			return (killed || !a.afterKill) && a.pattern.MatchString(line.text)
		})
		if !known && !slices.Contains(strange, line.text) {
			strange = append(strange, line.text)
		}
	}
	return strange
}
