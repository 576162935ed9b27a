package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// credentials are the files that the programs of a control plane read.
type credentials struct {
	directory                                          string
	authority, certificate, key, serviceAccount, users string
	// tokens by the user's name.
	tokens map[string]string
}

// The users of the control plane. All are in the group of administrators, which priority and fairness exempts.
const (
	admin             = "admin"
	controllerManager = "system:kube-controller-manager"
	scheduler         = "system:kube-scheduler"
	kubelets          = "kwok"
)

// newCredentials makes an authority, the certificate of kube-apiserver, the key of service accounts and a token for
// each user.
func newCredentials(t *testing.T) *credentials {
	t.Helper()
	c := &credentials{directory: t.TempDir(), tokens: map[string]string{}}
	now := time.Now()
	newKey := func(name string) (*ecdsa.PrivateKey, string) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.MarshalECPrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		return key, c.write(t, name, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}))
	}
	sign := func(template, parent *x509.Certificate, key, signer *ecdsa.PrivateKey, name string) string {
		der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
		if err != nil {
			t.Fatal(err)
		}
		return c.write(t, name, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	}

	authorityKey, _ := newKey("ca.key")
	authority := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "e2e"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	c.authority = sign(authority, authority, authorityKey, authorityKey, "ca.crt")

	servingKey, path := newKey("apiserver.key")
	c.key = path
	c.certificate = sign(&x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "kube-apiserver"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:    []string{"localhost", "kubernetes.default.svc"},
		IPAddresses: []net.IP{net.ParseIP("127.0.0.1"), net.ParseIP(serviceAddress)},
	}, authority, servingKey, authorityKey, "apiserver.crt")
	_, c.serviceAccount = newKey("service-account.key")

	var users string
	for i, user := range []string{admin, controllerManager, scheduler, kubelets} {
		token := make([]byte, 16)
		if _, err := rand.Read(token); err != nil {
			t.Fatal(err)
		}
		c.tokens[user] = fmt.Sprintf("%x", token)
		users += fmt.Sprintf("%s,%s,%d,\"system:masters\"\n", c.tokens[user], user, i)
	}
	c.users = c.write(t, "users.csv", []byte(users))
	return c
}

func (c *credentials) write(t *testing.T, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(c.directory, name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// kubeconfig writes the file by which a user reaches the server.
func (c *credentials) kubeconfig(t *testing.T, user, server string) string {
	t.Helper()
	return c.write(t, user+".kubeconfig", fmt.Appendf(nil, `apiVersion: v1
kind: Config
current-context: e2e
clusters: [{name: e2e, cluster: {server: %q, certificate-authority: %q}}]
users: [{name: e2e, user: {token: %q}}]
contexts: [{name: e2e, context: {cluster: e2e, user: e2e}}]
`, server, c.authority, c.tokens[user]))
}
