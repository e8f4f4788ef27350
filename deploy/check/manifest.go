package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"
)

// manifest is what one file holds.
type manifest struct {
	configs  map[string]*core.ConfigMap
	secrets  map[string]*core.Secret
	services map[string]*core.Service
	set      *apps.StatefulSet
}

// checkManifest reads a file with one StatefulSet and what belongs to it. Into folder it writes what its
// container would start with: its arguments (args), its environment (env), and the files of its ConfigMap.
func checkManifest(file, folder string) error {
	m, err := readManifest(file)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if err := errors.Join(m.problems()...); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return m.write(folder)
}

func readManifest(file string) (*manifest, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	m := &manifest{configs: map[string]*core.ConfigMap{}, secrets: map[string]*core.Secret{}, services: map[string]*core.Service{}}
	decoder := json.NewSerializerWithOptions(json.DefaultMetaFactory, scheme.Scheme, scheme.Scheme, json.SerializerOptions{Yaml: true, Strict: true})
	documents := yaml.NewYAMLReader(bufio.NewReader(f))
	for {
		text, err := documents.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		object, kind, err := decoder.Decode(text, nil, nil)
		if err != nil {
			return nil, err
		}
		fmt.Printf("%s: %s\n", filepath.Base(file), kind.Kind)
		switch o := object.(type) {
		case *core.ConfigMap:
			m.configs[o.Name] = o
		case *core.Secret:
			m.secrets[o.Name] = o
		case *core.Service:
			m.services[o.Name] = o
		case *apps.StatefulSet:
			m.set = o
		}
	}
	if m.set == nil || len(m.set.Spec.Template.Spec.Containers) != 1 {
		return nil, errors.New("a StatefulSet with one container is missing")
	}
	return m, nil
}

// problems are names that lead nowhere.
func (m *manifest) problems() (all []error) {
	say := func(format string, args ...any) { all = append(all, fmt.Errorf(format, args...)) }
	pod, container := m.set.Spec.Template.Spec, m.set.Spec.Template.Spec.Containers[0]
	if m.services[m.set.Spec.ServiceName] == nil {
		say("serviceName: there is no Service %s", m.set.Spec.ServiceName)
	}
	ports := map[string]bool{}
	for _, p := range container.Ports {
		ports[p.Name] = true
	}
	for name, s := range m.services {
		for _, p := range s.Spec.Ports {
			if !ports[p.TargetPort.StrVal] {
				say("Service %s: the container has no port named %q", name, p.TargetPort.String())
			}
		}
	}
	for _, probe := range []*core.Probe{container.StartupProbe, container.LivenessProbe, container.ReadinessProbe} {
		if probe == nil || probe.HTTPGet == nil || probe.HTTPGet.Port.Type != intstr.String || !ports[probe.HTTPGet.Port.StrVal] {
			say("a probe is missing, or asks a port that the container has not")
		}
	}
	volumes := map[string]bool{}
	for _, v := range pod.Volumes {
		volumes[v.Name] = true
		if v.ConfigMap != nil && m.configs[v.ConfigMap.Name] == nil {
			say("volume %s: there is no ConfigMap %s", v.Name, v.ConfigMap.Name)
		}
	}
	for _, c := range m.set.Spec.VolumeClaimTemplates {
		volumes[c.Name] = true
	}
	for _, v := range container.VolumeMounts {
		if !volumes[v.Name] {
			say("there is no volume %s", v.Name)
		}
	}
	for _, e := range container.EnvFrom {
		if e.SecretRef == nil || m.secrets[e.SecretRef.Name] == nil {
			say("envFrom: there is no such Secret")
		}
	}
	return all
}

func (m *manifest) write(folder string) error {
	container := m.set.Spec.Template.Spec.Containers[0]
	files := map[string]string{"args": strings.Join(container.Args, "\n") + "\n"}
	var env bytes.Buffer
	for _, e := range container.EnvFrom {
		for name, value := range m.secrets[e.SecretRef.Name].StringData {
			fmt.Fprintf(&env, "%s=%s\n", name, value)
		}
	}
	for _, e := range container.Env {
		fmt.Fprintf(&env, "%s=%s\n", e.Name, e.Value)
	}
	files["env"] = env.String()
	for _, c := range m.configs {
		for name, text := range c.Data {
			files[name] = text
		}
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}
