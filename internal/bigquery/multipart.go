package bigquery

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/textproto"
	"strings"
)

const (
	maxPartHeader = 8 << 10
	maxBoundary   = 70 // RFC 2046, section 5.1.1
)

// MediaPart is the rest of a multipart/related upload after its metadata: the
// media, still to be read.
type MediaPart struct {
	parts *multipart.Reader
	media *multipart.Part
}

// OpenMultipart reads the first part of a multipart/related upload, the JSON
// metadata, of at most maxMeta bytes (RFC 2387;
// https://cloud.google.com/bigquery/docs/reference/api-uploads). The media
// follows from [MediaPart.Forward]. Exactly two parts are allowed, with no
// headers but their types.
func OpenMultipart(contentType string, r io.Reader, maxMeta int64) (meta []byte, rest *MediaPart, err *Error) {
	kind, params, perr := mime.ParseMediaType(contentType)
	boundary := params["boundary"]
	if perr != nil || kind != "multipart/related" || boundary == "" || len(boundary) > maxBoundary {
		return nil, nil, invalid("a multipart upload must be multipart/related with a boundary")
	}
	parts := multipart.NewReader(bufio.NewReaderSize(r, 64<<10), boundary)
	first, perr := parts.NextRawPart()
	if perr != nil {
		return nil, nil, invalid("the multipart body cannot be read: %s", clip(perr.Error(), 200))
	}
	if err := checkPart(first.Header, "application/json"); err != nil {
		return nil, nil, err
	}
	meta, perr = io.ReadAll(io.LimitReader(first, maxMeta+1))
	if perr != nil {
		return nil, nil, invalid("the multipart metadata cannot be read: %s", clip(perr.Error(), 200))
	}
	if int64(len(meta)) > maxMeta {
		return nil, nil, invalid("the multipart metadata is larger than %d bytes", maxMeta)
	}
	media, perr := parts.NextRawPart()
	if perr != nil {
		return nil, nil, invalid("the multipart body has no media part")
	}
	if err := checkPart(media.Header, ""); err != nil {
		return nil, nil, err
	}
	return meta, &MediaPart{parts: parts, media: media}, nil
}

// checkPart refuses part headers beyond the type: an encoding or a disposition
// would make another reader see other bytes.
func checkPart(h textproto.MIMEHeader, kind string) *Error {
	size := 0
	for name, values := range h {
		size += len(name) + len(strings.Join(values, ""))
		switch name {
		case "Content-Type", "Mime-Version", "Content-Length", "Content-Id":
		case "Content-Transfer-Encoding":
			if v := strings.ToLower(values[0]); v != "binary" && v != "8bit" && v != "7bit" {
				return invalid("a part's Content-Transfer-Encoding must be binary")
			}
		default:
			return invalid("a part of a multipart upload has the header %s, which has no place there", clip(name, 64))
		}
		if len(values) > 1 {
			return invalid("a part's header %s stands twice", clip(name, 64))
		}
	}
	if size > maxPartHeader {
		return invalid("a part's headers are too long")
	}
	if got, _, err := mime.ParseMediaType(h.Get("Content-Type")); kind != "" && (err != nil || got != kind) {
		return invalid("the first part of a multipart upload must be %s", kind)
	}
	return nil
}

// Forward is the upload to send on: the stamped metadata and the media as it
// streams, under a boundary of our own. What is wrong with the rest of the body
// (a third part, no end) surfaces as an error of the reader.
func (m *MediaPart) Forward(stamped []byte) (contentType string, body io.Reader) {
	var raw [24]byte
	_, _ = rand.Read(raw[:]) // never fails (crypto/rand)
	boundary := "trailgate_" + hex.EncodeToString(raw[:])
	mediaType := m.media.Header.Get("Content-Type")
	if mediaType == "" || strings.ContainsAny(mediaType, "\r\n") {
		mediaType = "application/octet-stream"
	}
	var head bytes.Buffer
	fmt.Fprintf(&head, "--%s\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n", boundary)
	head.Write(stamped)
	fmt.Fprintf(&head, "\r\n--%s\r\nContent-Type: %s\r\n\r\n", boundary, mediaType)
	tail := &ending{parts: m.parts, text: "\r\n--" + boundary + "--\r\n"}
	return "multipart/related; boundary=" + boundary, io.MultiReader(&head, m.media, tail)
}

// ending gives the closing boundary once it is sure that nothing else came.
type ending struct {
	parts *multipart.Reader
	text  string
	sure  bool
}

func (e *ending) Read(p []byte) (int, error) {
	if !e.sure {
		if _, err := e.parts.NextRawPart(); !errors.Is(err, io.EOF) {
			if err == nil {
				err = errors.New("a multipart upload has two parts, this one has more")
			}
			return 0, err
		}
		e.sure = true
	}
	if e.text == "" {
		return 0, io.EOF
	}
	n := copy(p, e.text)
	e.text = e.text[n:]
	return n, nil
}
