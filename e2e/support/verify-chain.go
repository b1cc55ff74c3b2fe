// Verifies certificate chains with Go's crypto/x509: verify-chain ROOTS CHAIN prints OK, or what is wrong with it.
package main

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
)

func certificates(path string) (found []*x509.Certificate) {
	rest, err := os.ReadFile(path)
	if err != nil {
		panic(err)
	}
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return found
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		found = append(found, certificate)
	}
}

func main() {
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	for _, root := range certificates(os.Args[1]) {
		roots.AddCert(root)
	}
	chain := certificates(os.Args[2])
	for _, intermediate := range chain[1:] {
		intermediates.AddCert(intermediate)
	}
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		options := x509.VerifyOptions{Roots: roots, Intermediates: intermediates, KeyUsages: []x509.ExtKeyUsage{usage}}
		if _, err := chain[0].Verify(options); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	fmt.Println("OK")
}
