package api

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
)

// Listen opens every listener, or none.
func (s *Server) Listen() error {
	for _, f := range s.fronts {
		listener, err := f.listen()
		if err != nil {
			s.unlisten()
			return fmt.Errorf("opening the %s listener: %w", f.name, err)
		}
		f.listener = limit(listener, f.most)
	}
	return nil
}

func (s *Server) unlisten() {
	for _, f := range s.fronts {
		if f.listener != nil {
			_ = f.listener.Close() // its server may have closed it already
		}
	}
}

// Serve answers until Shutdown, after which it returns nil, or until a listener
// fails. Listen comes before it.
func (s *Server) Serve() error {
	failed := make(chan error, len(s.fronts))
	for _, f := range s.fronts {
		listener := f.listener
		if listener == nil {
			return fmt.Errorf("serving the %s listener: it is not open", f.name)
		}
		go func() {
			err := f.server.Serve(listener)
			if errors.Is(err, http.ErrServerClosed) {
				err = nil
			} else {
				err = fmt.Errorf("serving the %s listener: %w", f.name, err)
			}
			failed <- err
		}()
	}
	for range s.fronts {
		if err := <-failed; err != nil {
			return err
		}
	}
	return nil
}

// Shutdown stops accepting, waits for the requests in flight until ctx ends,
// and removes the socket files. What is still running then is cut off. Last of
// all the audit log gets what was held back from it.
func (s *Server) Shutdown(ctx context.Context) error {
	errs := make(chan error, len(s.fronts))
	for _, f := range s.fronts {
		go func() {
			err := f.server.Shutdown(ctx)
			if err != nil {
				err = errors.Join(fmt.Errorf("stopping the %s listener: %w", f.name, err), f.server.Close())
			}
			errs <- err
		}()
	}
	var all []error
	for range s.fronts {
		all = append(all, <-errs)
	}
	s.unlisten()
	all = append(all, s.cfg.Opener.Close(ctx))
	s.refused.close()
	s.cfg.Opener.refused.close()
	return errors.Join(all...)
}

// Addr is where /metrics, /healthz and /readyz are served once Listen has
// returned; nil if they are not.
func (s *Server) Addr() net.Addr {
	for _, f := range s.fronts {
		if f.name == "monitoring" && f.listener != nil {
			return f.listener.Addr()
		}
	}
	return nil
}
