package web

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"time"
)

// NewCertificate makes a certificate and its key as PEM. Machines know it by its
// fingerprint, with any clock and name; it is for no other server.
func NewCertificate(at []netip.Addr) (string, error) {
	wrap := func(err error) (string, error) { return "", fmt.Errorf("cannot make a certificate: %w", err) }
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return wrap(err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return wrap(err)
	}
	c := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "mkcdrec serve"},
		NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().AddDate(10, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true,
	}
	for _, a := range at {
		c.IPAddresses = append(c.IPAddresses, net.IP(a.AsSlice()))
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		return wrap(err)
	}
	priv, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return wrap(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})) + string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: priv})), nil
}

// TLS gives the configuration of a server with a certificate of NewCertificate, and the
// certificate's fingerprint: the SHA-256 of its DER form, in hex.
func TLS(text string) (*tls.Config, string, error) {
	c, err := tls.X509KeyPair([]byte(text), []byte(text))
	if err != nil {
		return nil, "", fmt.Errorf("cannot use the server's certificate: %w", err)
	}
	sum := sha256.Sum256(c.Certificate[0])
	return &tls.Config{Certificates: []tls.Certificate{c}, MinVersion: tls.VersionTLS13}, hex.EncodeToString(sum[:]), nil
}
