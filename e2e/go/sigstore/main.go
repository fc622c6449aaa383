// virtual-sigstore plays Fulcio, its CT log, Rekor and a timestamp authority, all made anew at each run, and signs the digest of an OCI
// manifest in their name: what keyless signing with the public Sigstore leaves in a registry, without a network.
//
// The keys of Rekor and of the timestamp authority are those of sigstore-go's own virtual ones. Certificates are made here, since
// those of sigstore-go have neither a URI as identity nor a signed certificate timestamp; log entries, since it logs no public keys.
package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	ct "github.com/google/certificate-transparency-go"
	cttls "github.com/google/certificate-transparency-go/tls"
	ctx509 "github.com/google/certificate-transparency-go/x509"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protodsse "github.com/sigstore/protobuf-specs/gen/pb-go/dsse"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/rekor/pkg/types"
	dsseentry "github.com/sigstore/rekor/pkg/types/dsse"
	_ "github.com/sigstore/rekor/pkg/types/dsse/v0.0.1"
	"github.com/sigstore/rekor/pkg/types/hashedrekord"
	_ "github.com/sigstore/rekor/pkg/types/hashedrekord/v0.0.1"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/testing/ca"
	"github.com/sigstore/sigstore-go/pkg/tlog"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"google.golang.org/protobuf/encoding/protojson"
)

const usage = `usage: virtual-sigstore sha256:HEX IDENTITY ISSUER FOLDER

Writes into FOLDER
  trusted-root.json                    what a verifier has to trust
  keyless.sigstore.json                a signature as cosign writes it today
  keyless-late.sigstore.json           the same, signed after its certificate had expired
  keyless-without-sct.sigstore.json    the same, with a certificate that no CT log has seen
  keyless-attestation.sigstore.json    a statement about the digest that is no signature
  keyless-old.payload.json, keyless-old.annotations.json    a signature as cosign wrote it before
  logged.pub, logged.sigstore.json, logged-old.*            the same with a key, logged
`

const (
	signPredicate = "https://sigstore.dev/cosign/sign/v1"
	payloadType   = "application/vnd.in-toto+json"
	lifetime      = 10 * time.Minute
)

func main() {
	if len(os.Args) != 5 {
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2], os.Args[3], os.Args[4]); err != nil {
		fmt.Fprintln(os.Stderr, "virtual-sigstore:", err)
		os.Exit(1)
	}
}

func run(digest, identity, issuer, folder string) error {
	hexDigest, found := strings.CutPrefix(digest, "sha256:")
	if !found {
		return fmt.Errorf("%s is no sha256 digest", digest)
	}
	virtual, err := newSigstore(identity, issuer)
	if err != nil {
		return err
	}
	trustedRoot, err := virtual.trustedRoot()
	if err != nil {
		return err
	}
	files := map[string][]byte{"trusted-root.json": trustedRoot}

	now := time.Now()
	signers := map[string]func() (*signer, error){
		"keyless":             func() (*signer, error) { return virtual.certified(now, true) },
		"keyless-late":        func() (*signer, error) { return virtual.certified(now.Add(-lifetime-time.Minute), true) },
		"keyless-without-sct": func() (*signer, error) { return virtual.certified(now, false) },
		"keyless-attestation": func() (*signer, error) { return virtual.certified(now, true) },
		"logged":              newSigner,
	}
	for name, create := range signers {
		signer, err := create()
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		predicate := signPredicate
		if name == "keyless-attestation" {
			predicate = "https://slsa.dev/provenance/v1"
		}
		if files[name+".sigstore.json"], err = virtual.bundle(signer, hexDigest, predicate); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if name == "keyless" || name == "logged" {
			payload, annotations, err := virtual.simpleSigning(signer, digest)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			files[name+"-old.payload.json"], files[name+"-old.annotations.json"] = payload, annotations
		}
		if signer.cert == nil {
			files[name+".pub"] = signer.pem
		}
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(folder, name), content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// sigstore is the services and the signer that asks them.
type sigstore struct {
	services         *ca.VirtualSigstore
	root             *x509.Certificate
	intermediate     *x509.Certificate
	intermediateKey  *ecdsa.PrivateKey
	ctKey            *ecdsa.PrivateKey
	identity, issuer string
}

func newSigstore(identity, issuer string) (*sigstore, error) {
	services, err := ca.NewVirtualSigstore()
	if err != nil {
		return nil, err
	}
	rootCert, rootKey, err := ca.GenerateRootCa()
	if err != nil {
		return nil, err
	}
	intermediate, intermediateKey, err := ca.GenerateFulcioIntermediate(rootCert, rootKey)
	if err != nil {
		return nil, err
	}
	ctKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	return &sigstore{services, rootCert, intermediate, intermediateKey, ctKey, identity, issuer}, nil
}

func keyID(key crypto.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(der)
	return sum[:], nil
}

func (s *sigstore) trustedRoot() ([]byte, error) {
	start, end := time.Now().Add(-time.Hour), time.Now().Add(2*time.Hour)
	fulcio := &root.FulcioCertificateAuthority{
		URI: "https://fulcio.virtual.example", Root: s.root, Intermediates: []*x509.Certificate{s.intermediate},
		ValidityPeriodStart: start, ValidityPeriodEnd: end,
	}
	ctID, err := keyID(s.ctKey.Public())
	if err != nil {
		return nil, err
	}
	ctLogs := map[string]*root.TransparencyLog{hex.EncodeToString(ctID): {
		BaseURL: "https://ct.virtual.example", ID: ctID, HashFunc: crypto.SHA256, SignatureHashFunc: crypto.SHA256,
		PublicKey: s.ctKey.Public(), ValidityPeriodStart: start, ValidityPeriodEnd: end,
	}}
	rekorLogs := s.services.RekorLogs()
	for id, log := range rekorLogs {
		// sigstore-go fills in the hexadecimal text of the ID; verifiers compare its bytes.
		if log.ID, err = hex.DecodeString(id); err != nil {
			return nil, err
		}
		log.ValidityPeriodStart, log.ValidityPeriodEnd = start, end
	}
	trusted, err := root.NewTrustedRoot(root.TrustedRootMediaType01, []root.CertificateAuthority{fulcio}, ctLogs,
		s.services.TimestampingAuthorities(), rekorLogs)
	if err != nil {
		return nil, err
	}
	return trusted.MarshalJSON()
}

// signer is a key, and the certificate of a keyless signature.
type signer struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	// Certificate or public key, as logs have it.
	pem []byte
}

func newSigner() (*signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	pem, err := cryptoutils.MarshalPublicKeyToPEM(key.Public())
	return &signer{key: key, pem: pem}, err
}

func (s *signer) sign(content []byte) ([]byte, error) {
	sum := sha256.Sum256(content)
	return ecdsa.SignASN1(rand.Reader, s.key, sum[:])
}

// certified is a signer with a certificate for its new key, as Fulcio issues it.
func (s *sigstore) certified(issued time.Time, withSCT bool) (*signer, error) {
	signer, err := newSigner()
	if err != nil {
		return nil, err
	}
	if signer.cert, err = s.certificate(signer.key.Public(), issued, withSCT); err != nil {
		return nil, err
	}
	signer.pem, err = cryptoutils.MarshalCertificateToPEM(signer.cert)
	return signer, err
}

func (s *sigstore) certificate(key crypto.PublicKey, issued time.Time, withSCT bool) (*x509.Certificate, error) {
	identity, err := url.Parse(s.identity)
	if err != nil {
		return nil, err
	}
	issuer, err := asn1.MarshalWithParams(s.issuer, "utf8")
	if err != nil {
		return nil, err
	}
	fulcio := func(number int, value []byte) pkix.Extension {
		return pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, number}, Value: value}
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		URIs:         []*url.URL{identity},
		NotBefore:    issued.Add(-time.Second),
		NotAfter:     issued.Add(lifetime),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		// The issuer, once as Fulcio wrote it before and once as it writes it today.
		ExtraExtensions: []pkix.Extension{fulcio(1, []byte(s.issuer)), fulcio(8, issuer)},
	}
	issue := func() (*x509.Certificate, error) {
		der, err := x509.CreateCertificate(rand.Reader, template, s.intermediate, key, s.intermediateKey)
		if err != nil {
			return nil, err
		}
		return x509.ParseCertificate(der)
	}
	cert, err := issue()
	if err != nil || !withSCT {
		return cert, err
	}
	// What a CT log signs is the certificate without the extension that will hold its signature.
	extension, err := s.sct(cert)
	if err != nil {
		return nil, err
	}
	template.ExtraExtensions = append(template.ExtraExtensions, extension)
	return issue()
}

// sct is the CT log's promise to publish a certificate, as an extension (RFC 6962, 3.3).
func (s *sigstore) sct(cert *x509.Certificate) (pkix.Extension, error) {
	none := pkix.Extension{}
	logID, err := keyID(s.ctKey.Public())
	if err != nil {
		return none, err
	}
	stamp := ct.SignedCertificateTimestamp{
		SCTVersion: ct.V1,
		LogID:      ct.LogID{KeyID: ct.SHA256Hash(logID)},
		Timestamp:  uint64(time.Now().UnixMilli()),
	}
	signed, err := ct.SerializeSCTSignatureInput(stamp, ct.LogEntry{Leaf: ct.MerkleTreeLeaf{
		Version: ct.V1, LeafType: ct.TimestampedEntryLeafType,
		TimestampedEntry: &ct.TimestampedEntry{
			Timestamp: stamp.Timestamp, EntryType: ct.PrecertLogEntryType,
			PrecertEntry: &ct.PreCert{
				IssuerKeyHash:  sha256.Sum256(s.intermediate.RawSubjectPublicKeyInfo),
				TBSCertificate: cert.RawTBSCertificate,
			},
		},
	}})
	if err != nil {
		return none, err
	}
	sum := sha256.Sum256(signed)
	signature, err := ecdsa.SignASN1(rand.Reader, s.ctKey, sum[:])
	if err != nil {
		return none, err
	}
	stamp.Signature = ct.DigitallySigned{
		Algorithm: cttls.SignatureAndHashAlgorithm{Hash: cttls.SHA256, Signature: cttls.ECDSA},
		Signature: signature,
	}
	serialized, err := cttls.Marshal(stamp)
	if err != nil {
		return none, err
	}
	list, err := cttls.Marshal(ctx509.SignedCertificateTimestampList{SCTList: []ctx509.SerializedSCT{{Val: serialized}}})
	if err != nil {
		return none, err
	}
	value, err := asn1.Marshal(list)
	return pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 2}, Value: value}, err
}

// bundle signs the statement that something is the case with a digest: a sigstore bundle with log entry and timestamp.
func (s *sigstore) bundle(signer *signer, hexDigest, predicate string) ([]byte, error) {
	payload, err := json.Marshal(map[string]any{
		"_type":         "https://in-toto.io/Statement/v1",
		"subject":       []any{map[string]any{"digest": map[string]string{"sha256": hexDigest}}},
		"predicateType": predicate,
		"predicate":     map[string]any{},
	})
	if err != nil {
		return nil, err
	}
	signature, err := signer.sign(dsse.PAE(payloadType, payload))
	if err != nil {
		return nil, err
	}
	envelope, err := json.Marshal(dsse.Envelope{
		PayloadType: payloadType,
		Payload:     base64.StdEncoding.EncodeToString(payload),
		Signatures:  []dsse.Signature{{Sig: base64.StdEncoding.EncodeToString(signature)}},
	})
	if err != nil {
		return nil, err
	}
	inLog, err := s.log(dsseentry.KIND, "0.0.1", types.ArtifactProperties{
		PublicKeyBytes: [][]byte{signer.pem}, PKIFormat: "x509", ArtifactBytes: envelope, SignatureBytes: signature,
	})
	if err != nil {
		return nil, err
	}
	logEntry, err := s.withProof(inLog)
	if err != nil {
		return nil, err
	}
	timestamp, err := s.services.TimestampResponse(signature)
	if err != nil {
		return nil, err
	}
	material := &protobundle.VerificationMaterial{
		TlogEntries: []*protorekor.TransparencyLogEntry{logEntry},
		TimestampVerificationData: &protobundle.TimestampVerificationData{
			Rfc3161Timestamps: []*protocommon.RFC3161SignedTimestamp{{SignedTimestamp: timestamp}},
		},
	}
	if signer.cert != nil {
		cert := &protocommon.X509Certificate{RawBytes: signer.cert.Raw}
		material.Content = &protobundle.VerificationMaterial_Certificate{Certificate: cert}
	} else {
		id, err := keyID(signer.key.Public())
		if err != nil {
			return nil, err
		}
		key := &protocommon.PublicKeyIdentifier{Hint: base64.StdEncoding.EncodeToString(id)}
		material.Content = &protobundle.VerificationMaterial_PublicKey{PublicKey: key}
	}
	return protojson.Marshal(&protobundle.Bundle{
		MediaType:            "application/vnd.dev.sigstore.bundle.v0.3+json",
		VerificationMaterial: material,
		Content: &protobundle.Bundle_DsseEnvelope{DsseEnvelope: &protodsse.Envelope{
			PayloadType: payloadType, Payload: payload, Signatures: []*protodsse.Signature{{Sig: signature}},
		}},
	})
}

// simpleSigning signs in cosign's older format: a payload, and everything else in annotations.
func (s *sigstore) simpleSigning(signer *signer, digest string) (payload, annotations []byte, err error) {
	payload, err = json.Marshal(map[string]any{
		"critical": map[string]any{
			"identity": map[string]string{"docker-reference": ""},
			"image":    map[string]string{"docker-manifest-digest": digest},
			"type":     "cosign container image signature",
		},
		"optional": nil,
	})
	if err != nil {
		return nil, nil, err
	}
	signature, err := signer.sign(payload)
	if err != nil {
		return nil, nil, err
	}
	sum := sha256.Sum256(payload)
	inLog, err := s.log(hashedrekord.KIND, "0.0.1", types.ArtifactProperties{
		PublicKeyBytes: [][]byte{signer.pem}, PKIFormat: "x509",
		ArtifactHash: hex.EncodeToString(sum[:]), SignatureBytes: signature,
	})
	if err != nil {
		return nil, nil, err
	}
	logBundle, err := json.Marshal(map[string]any{"SignedEntryTimestamp": inLog.promise, "Payload": inLog.entry})
	if err != nil {
		return nil, nil, err
	}
	all := map[string]string{
		"dev.cosignproject.cosign/signature": base64.StdEncoding.EncodeToString(signature),
		"dev.sigstore.cosign/bundle":         string(logBundle),
	}
	if signer.cert != nil {
		chain, err := cryptoutils.MarshalCertificatesToPEM([]*x509.Certificate{s.intermediate, s.root})
		if err != nil {
			return nil, nil, err
		}
		all["dev.sigstore.cosign/certificate"], all["dev.sigstore.cosign/chain"] = string(signer.pem), string(chain)
	}
	annotations, err = json.MarshalIndent(all, "", "  ")
	return payload, annotations, err
}

// logged is an entry of the log, with Rekor's promise to take it up.
type logged struct {
	body    []byte
	entry   tlog.RekorPayload
	promise []byte
}

func (s *sigstore) log(kind, version string, properties types.ArtifactProperties) (*logged, error) {
	ctx := context.Background()
	proposed, err := types.NewProposedEntry(ctx, kind, version, properties)
	if err != nil {
		return nil, err
	}
	versioned, err := types.CreateVersionedEntry(proposed)
	if err != nil {
		return nil, err
	}
	body, err := types.CanonicalizeEntry(ctx, versioned)
	if err != nil {
		return nil, err
	}
	logID, err := s.services.RekorLogID()
	if err != nil {
		return nil, err
	}
	entry := tlog.RekorPayload{
		Body: base64.StdEncoding.EncodeToString(body), IntegratedTime: time.Now().Unix(), LogID: logID,
	}
	promise, err := s.services.RekorSignPayload(entry)
	return &logged{body, entry, promise}, err
}

// withProof is an entry of kind dsse in the form for bundles, with the proof that the log has it.
func (s *sigstore) withProof(l *logged) (*protorekor.TransparencyLogEntry, error) {
	logID, err := hex.DecodeString(l.entry.LogID)
	if err != nil {
		return nil, err
	}
	proof, err := s.services.GetInclusionProof(l.body)
	if err != nil {
		return nil, err
	}
	rootHash, err := hex.DecodeString(*proof.RootHash)
	if err != nil {
		return nil, err
	}
	return &protorekor.TransparencyLogEntry{
		LogIndex:         l.entry.LogIndex,
		LogId:            &protocommon.LogId{KeyId: logID},
		KindVersion:      &protorekor.KindVersion{Kind: dsseentry.KIND, Version: "0.0.1"},
		IntegratedTime:   l.entry.IntegratedTime,
		InclusionPromise: &protorekor.InclusionPromise{SignedEntryTimestamp: l.promise},
		InclusionProof: &protorekor.InclusionProof{
			LogIndex: *proof.LogIndex, TreeSize: *proof.TreeSize, RootHash: rootHash,
			Checkpoint: &protorekor.Checkpoint{Envelope: *proof.Checkpoint},
		},
		CanonicalizedBody: l.body,
	}, nil
}
