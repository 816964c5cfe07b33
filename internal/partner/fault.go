package partner

import "encoding/json"

// fault is what a partner's error body says.
type fault struct{ code, message, requestID string }

// readFault reads the shapes of error body that partners document, among them
// those of OAuth 2.0 (RFC 6749 §5.2) and of problem details (RFC 9457 §3, with
// Jack Henry's list of details). Anything else is a fault with nothing in it.
func readFault(body []byte) fault {
	var b struct {
		Error       json.RawMessage `json:"error"`
		Description json.RawMessage `json:"error_description"`
		Message     json.RawMessage `json:"message"`
		Explanation json.RawMessage `json:"description"`
		RequestID   json.RawMessage `json:"request_id"`
		Code        json.RawMessage `json:"code"`
		Errors      json.RawMessage `json:"errors"`
		Type        json.RawMessage `json:"type"`
		Title       json.RawMessage `json:"title"`
		Detail      json.RawMessage `json:"detail"`
		Details     json.RawMessage `json:"details"`
	}
	if len(body) > maxBody || json.Unmarshal(body, &b) != nil {
		return fault{}
	}
	f := fault{
		code:      firstString(b.Error, b.Code, b.Type),
		message:   firstString(b.Description, b.Message, b.Explanation, b.Detail, firstOf(b.Details), b.Title),
		requestID: firstString(b.RequestID),
	}
	// Several faults at once are told apart by the first; codes are not unique.
	var one struct {
		Code    json.RawMessage `json:"code"`
		Message json.RawMessage `json:"message"`
	}
	if first := firstOf(b.Errors); first != nil && json.Unmarshal(first, &one) == nil {
		f.code = firstString(b.Error, b.Code, one.Code)
		f.message = firstString(b.Description, b.Message, one.Message)
	}
	return f
}

// firstString is the first value that is a JSON string with something in it.
func firstString(values ...json.RawMessage) string {
	for _, v := range values {
		var s string
		if json.Unmarshal(v, &s) == nil && s != "" {
			return s
		}
	}
	return ""
}

// firstOf is the first element of a JSON array; nil if it is none.
func firstOf(list json.RawMessage) json.RawMessage {
	var elements []json.RawMessage
	if json.Unmarshal(list, &elements) != nil || len(elements) == 0 {
		return nil
	}
	return elements[0]
}
