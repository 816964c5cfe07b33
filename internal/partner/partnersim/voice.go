package partnersim

import (
	"encoding/json"
	"net/http"
	"strings"
)

// voice is how a partner words its errors.
type voice struct {
	refuse       func(status int, code, message string) reply
	unauthorized func(token string) reply
}

// voiceOf finds the partner whose path it is.
func voiceOf(path string) voice {
	for prefix, v := range map[string]voice{
		jackHenryBase: {problemDetails, problemUnauthorized},
		powensBase:    {powensError, powensUnauthorized},
		venlyBase:     {venlyError, venlyUnauthorized},
		genericBase:   {genericError, genericUnauthorized},
	} {
		if strings.HasPrefix(path, prefix+"/") {
			return v
		}
	}
	return voice{refuse: wiseError, unauthorized: unauthorized}
}

func wiseError(status int, code, message string) reply {
	if status == http.StatusInternalServerError {
		return unexpected("fault")
	}
	return invalid(status, code, "", message)
}

// problemDetails is an error of Jack Henry's.
func problemDetails(status int, _, message string) reply {
	body, _ := json.Marshal(map[string]any{ // strings always encode
		"type": "jackhenry/operation-failed", "title": http.StatusText(status), "details": []string{message}, "data": map[string]any{},
	})
	return reply{status: status, kind: "application/problem+json", body: body, refusal: message}
}

func problemUnauthorized(string) reply {
	return problemDetails(http.StatusUnauthorized, "", "the caller is not authenticated")
}
