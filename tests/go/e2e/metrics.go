package e2e

import (
	"fmt"
	"strconv"
	"strings"
)

// sample is one line of a page of metrics.
type sample struct {
	name   string
	labels map[string]string
	value  float64
}

// metrics reads what kube-apiserver counts.
func (p *plane) metrics() ([]sample, error) {
	page, err := p.get("/metrics")
	if err != nil {
		return nil, err
	}
	var samples []sample
	for _, line := range strings.Split(page, "\n") {
		if line == "" || line[0] == '#' {
			continue
		}
		space := strings.LastIndexByte(line, ' ')
		value, err := strconv.ParseFloat(line[space+1:], 64)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", line, err)
		}
		name, labels, _ := strings.Cut(line[:space], "{")
		s := sample{name: name, value: value, labels: map[string]string{}}
		// No label that is asked for here holds a comma or a quote.
		for _, label := range strings.Split(strings.TrimSuffix(labels, "}"), ",") {
			if key, text, found := strings.Cut(label, "="); found {
				s.labels[key] = strings.Trim(text, `"`)
			}
		}
		samples = append(samples, s)
	}
	return samples, nil
}

// sum adds up the samples of a name that carry the labels, given as key and value in turn.
func sum(samples []sample, name string, labels ...string) float64 {
	var total float64
next:
	for _, s := range samples {
		if s.name != name {
			continue
		}
		for i := 0; i < len(labels); i += 2 {
			if s.labels[labels[i]] != labels[i+1] {
				continue next
			}
		}
		total += s.value
	}
	return total
}
