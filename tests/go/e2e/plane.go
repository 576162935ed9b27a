package e2e

import (
	"crypto/tls"
	"crypto/x509"
	_ "embed"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// serviceAddress is the first of the service network: kube-apiserver's own.
const serviceAddress = "10.96.0.1"

// advertised is an address of the documentation's range: kube-apiserver refuses loopback, and nothing connects.
const advertised = "192.0.2.1"

// compactionInterval is kube-apiserver's; its first compaction comes after two of them.
const compactionInterval = 15 * time.Second

// eventTTL is short, so that leases run out while the test looks.
const eventTTL = 20 * time.Second

//go:embed stages.yaml
var stages []byte

// plane is a control plane of one server on one store, with simulated kubelets.
type plane struct {
	store       *store
	credentials *credentials
	logs        string
	ports       []int
	server      string
	compaction  time.Duration
	http        *http.Client
	client      *kubernetes.Clientset
	dynamic     *dynamic.DynamicClient

	apiserver *process
	others    []*process
}

// newPlane prepares files, ports and clients; nothing runs yet.
func newPlane(t *testing.T, s *store, logs string) *plane {
	t.Helper()
	p := &plane{store: s, credentials: newCredentials(t), logs: logs, ports: freePorts(t, 4),
		compaction: compactionInterval}
	p.server = fmt.Sprintf("https://127.0.0.1:%d", p.ports[0])
	pool := x509.NewCertPool()
	authority, err := os.ReadFile(p.credentials.authority)
	if err != nil {
		t.Fatal(err)
	}
	pool.AppendCertsFromPEM(authority)
	p.http = &http.Client{
		Timeout:   30 * time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}},
	}
	config := &rest.Config{
		Host:        p.server,
		BearerToken: p.credentials.tokens[admin],
		// Else the client's own limit of 5 requests a second is what a test sees.
		QPS:             -1,
		TLSClientConfig: rest.TLSClientConfig{CAFile: p.credentials.authority},
	}
	if p.client, err = kubernetes.NewForConfig(config); err != nil {
		t.Fatal(err)
	}
	if p.dynamic, err = dynamic.NewForConfig(config); err != nil {
		t.Fatal(err)
	}
	return p
}

// kube is the command of a component. TEST_KUBE names the binary, for runs with an older Kubernetes.
func kube(component string) []string {
	binary := os.Getenv("TEST_KUBE")
	if binary == "" {
		binary = "kube"
	}
	return []string{filepath.Join(cacheDirectory(), "bin", binary), component}
}

// minor is the minor version of the server: 37 for 1.37.
func (p *plane) minor(t *testing.T) int {
	t.Helper()
	version, err := p.client.Discovery().ServerVersion()
	if err != nil {
		t.Fatal(err)
	}
	minor, err := strconv.Atoi(version.Minor)
	if err != nil {
		t.Fatal(err)
	}
	return minor
}

// startServer runs kube-apiserver and returns how long it took until it was ready.
func (p *plane) startServer(t *testing.T) time.Duration {
	t.Helper()
	c := p.credentials
	p.apiserver = startProcess(t, p.logs, "kube-apiserver",
		[]string{
			// kube-apiserver ends itself where its cache and the store disagree.
			"KUBE_WATCHCACHE_CONSISTENCY_CHECKER=true",
			"KUBE_PANIC_WATCH_DECODE_ERROR=true",
		},
		append(kube("kube-apiserver"),
			"--etcd-servers="+p.store.clientURL,
			"--etcd-compaction-interval="+p.compaction.String(),
			"--event-ttl="+eventTTL.String(),
			"--bind-address=127.0.0.1",
			fmt.Sprintf("--secure-port=%d", p.ports[0]),
			"--advertise-address="+advertised,
			"--tls-cert-file="+c.certificate,
			"--tls-private-key-file="+c.key,
			"--client-ca-file="+c.authority,
			"--token-auth-file="+c.users,
			"--authorization-mode=RBAC",
			"--service-account-issuer=https://kubernetes.default.svc",
			"--service-account-key-file="+c.serviceAccount,
			"--service-account-signing-key-file="+c.serviceAccount,
			"--service-cluster-ip-range=10.96.0.0/16",
		)...)
	return p.waitReady(t)
}

// waitReady waits until kube-apiserver says that all of it is ready, and if it does not, tells which part.
func (p *plane) waitReady(t *testing.T) time.Duration {
	t.Helper()
	return eventually(t, 180*time.Second, "kube-apiserver is ready", func() error {
		if p.apiserver.hasExited() {
			t.Fatalf("kube-apiserver ended: %v\n%s", p.apiserver.exit, p.apiserver.tail(25))
		}
		answer, err := p.get("/readyz?verbose")
		if err != nil {
			var waiting []string
			for _, line := range strings.Split(answer, "\n") {
				if strings.HasPrefix(line, "[-]") {
					waiting = append(waiting, line)
				}
			}
			return fmt.Errorf("%v: %s", err, strings.Join(waiting, "; "))
		}
		return nil
	})
}

// startOthers runs the controller manager, the scheduler and the kubelets.
func (p *plane) startOthers(t *testing.T) {
	t.Helper()
	c := p.credentials
	strict := []string{"KUBE_WATCHLIST_INCONSISTENCY_DETECTOR=true"}
	p.others = append(p.others, startProcess(t, p.logs, "kube-controller-manager", strict,
		append(kube("kube-controller-manager"),
			"--kubeconfig="+c.kubeconfig(t, controllerManager, p.server),
			"--bind-address=127.0.0.1",
			fmt.Sprintf("--secure-port=%d", p.ports[1]),
			"--service-account-private-key-file="+c.serviceAccount,
			"--root-ca-file="+c.authority,
			"--flex-volume-plugin-dir="+t.TempDir(),
			"--kube-api-qps=300", "--kube-api-burst=300",
		)...))
	config := c.write(t, "scheduler.yaml", fmt.Appendf(nil, `apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
clientConnection: {kubeconfig: %q, qps: 300, burst: 300}
leaderElection: {leaderElect: true}
`, c.kubeconfig(t, scheduler, p.server)))
	p.others = append(p.others, startProcess(t, p.logs, "kube-scheduler", strict,
		append(kube("kube-scheduler"),
			"--config="+config,
			"--bind-address=127.0.0.1",
			fmt.Sprintf("--secure-port=%d", p.ports[2]),
		)...))
	p.others = append(p.others, startProcess(t, p.logs, "kwok", nil,
		filepath.Join(cacheDirectory(), "bin", "kwok"),
		"--kubeconfig="+c.kubeconfig(t, kubelets, p.server),
		"--config="+c.write(t, "stages.yaml", stages),
		"--manage-nodes-with-label-selector="+nodeLabel,
		"--node-lease-duration-seconds=40",
		fmt.Sprintf("--server-address=127.0.0.1:%d", p.ports[3]),
	))
}

// get reads a path of kube-apiserver with the administrator's token. The answer is given beside an error too.
func (p *plane) get(path string) (string, error) {
	request, err := http.NewRequest(http.MethodGet, p.server+path, nil)
	if err != nil {
		return "", err
	}
	request.Header.Set("Authorization", "Bearer "+p.credentials.tokens[admin])
	response, err := p.http.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s: %s", path, response.Status)
	}
	return string(body), err
}
