package respondio

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"sync"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/staffetta-relay/staffetta"
)

// Rest is what an object holds beside its fields.
type Rest struct {
	// Extra are the members that this package does not know, such as a contact's custom fields.
	Extra map[string]jsontext.Value
	// Odd are the members of another type than documented: their fields are zero.
	Odd map[string]jsontext.Value

	// forms are the members that the field alone would not write as they came: null, a number as
	// text, a list of one without its brackets.
	forms map[string]jsontext.Value
	// order has the names of the members as they came.
	order []string
}

// plan says which member of an object belongs in which field of a struct that has a Rest.
type plan struct {
	fields []field
	byName map[string]int
	rest   []int
}

type field struct {
	name  string
	index []int
}

// plans is a memo of planOf: reflect.Type -> *plan.
var plans sync.Map

func planOf(t reflect.Type) *plan {
	if p, ok := plans.Load(t); ok {
		return p.(*plan)
	}
	p := &plan{byName: make(map[string]int)}
	for _, f := range reflect.VisibleFields(t) {
		if f.Type == reflect.TypeFor[Rest]() {
			p.rest = f.Index
		} else if name := f.Tag.Get("json"); name != "" {
			p.byName[name] = len(p.fields)
			p.fields = append(p.fields, field{name, f.Index})
		}
	}
	plans.Store(t, p)
	return p
}

func (p *plan) restOf(v reflect.Value) *Rest {
	return v.FieldByIndex(p.rest).Addr().Interface().(*Rest)
}

// check says what is wrong with a text that is not one JSON object; everything below relies on it.
func check(src []byte) error {
	if value := jsontext.Value(src); value.Kind() == '{' && value.IsValid() {
		return nil
	}
	if _, err := staffetta.Canonicalize(bytes.Clone(src)); err != nil {
		return err // the same words as everywhere
	}
	return &staffetta.InputError{Code: "invalid_json", Offset: -1, Detail: "the payload is no JSON object"}
}

// member is the text of one member of an object that has been checked; empty if there is none.
func member(src jsontext.Value, name string) (text string) {
	eachMember(src, func(found string, raw jsontext.Value) bool {
		if found == name && raw.Kind() == '"' {
			text, _ = readText(raw)
		}
		return found == name
	})
	return text
}

// parseInto reads an object that has been checked into what target, a pointer to a struct, points to.
func parseInto(src jsontext.Value, target any) {
	v := reflect.ValueOf(target).Elem()
	v.SetZero()
	readObject(src, v)
}

// decoder reads what has been checked, so it looks for duplicate names no more (BenchmarkParse).
func decoder(src jsontext.Value) *jsontext.Decoder {
	return jsontext.NewDecoder(bytes.NewBuffer(src), jsontext.AllowDuplicateNames(true))
}

// eachMember calls do with the members of an object, until it says stop.
func eachMember(src jsontext.Value, do func(name string, raw jsontext.Value) (stop bool)) {
	dec := decoder(src)
	if _, err := dec.ReadToken(); err != nil {
		return // unreachable, as below: it was checked
	}
	for dec.PeekKind() == '"' {
		token, err := dec.ReadToken()
		if err != nil {
			return
		}
		name := token.String()
		raw, err := dec.ReadValue()
		if err != nil {
			return
		}
		if do(name, raw) {
			return
		}
	}
}

// readObject reads an object into a struct that has a Rest.
func readObject(src jsontext.Value, v reflect.Value) {
	p := planOf(v.Type())
	rest := p.restOf(v)
	eachMember(src, func(name string, raw jsontext.Value) bool {
		rest.order = append(rest.order, name)
		i, known := p.byName[name]
		if !known {
			keep(&rest.Extra, name, raw)
			return false
		}
		target := v.FieldByIndex(p.fields[i].index)
		switch fits := readValue(raw, target); {
		case !fits && raw.Kind() != 'n':
			keep(&rest.Odd, name, raw)
		case !fits || !writesAs(target, raw):
			keep(&rest.forms, name, raw)
		}
		return false
	})
}

func keep(in *map[string]jsontext.Value, name string, raw jsontext.Value) {
	if *in == nil {
		*in = make(map[string]jsontext.Value)
	}
	(*in)[name] = raw.Clone()
}

// readValue reads a value into a field that is zero, and says whether it fits; if not, the field
// stays zero.
func readValue(raw jsontext.Value, v reflect.Value) (fits bool) {
	switch target := v.Addr().Interface().(type) {
	case *string:
		*target, fits = readText(raw)
	case *ID:
		var text string
		text, fits = readText(raw)
		*target = ID(text)
	case *Timestamp:
		*target, fits = readTimestamp(raw)
	case *Seconds:
		var f float64
		f, fits = readFloat(raw)
		*target = Seconds(f)
	case *float64:
		*target, fits = readFloat(raw)
	case *int64:
		*target, fits = readInt(raw)
	case *jsontext.Value:
		*target, fits = raw.Clone(), true
	case *Content:
		if fits = raw.Kind() == '{'; fits {
			*target = newContent(member(raw, "type"))
			parseInto(raw, *target)
		}
	default:
		if v.Kind() == reflect.Slice {
			return readList(raw, v)
		}
		if fits = raw.Kind() == '{'; fits {
			readObject(raw, v)
		}
	}
	return fits
}

// readList reads an array, or the one element that came without brackets. It fits if all elements do.
func readList(raw jsontext.Value, v reflect.Value) bool {
	list := reflect.MakeSlice(v.Type(), 0, 1)
	add := func(raw jsontext.Value) bool {
		element := reflect.New(v.Type().Elem()).Elem()
		fits := readValue(raw, element)
		list = reflect.Append(list, element)
		return fits
	}
	if raw.Kind() != '[' {
		if !add(raw) {
			return false
		}
		v.Set(list)
		return true
	}
	dec := decoder(raw)
	if _, err := dec.ReadToken(); err != nil {
		return false
	}
	for dec.PeekKind() != ']' {
		element, err := dec.ReadValue()
		if err != nil || !add(element) {
			return false
		}
	}
	v.Set(list)
	return true
}

// writesAs reports whether the field writes raw. Objects do: they have a Rest.
func writesAs(v reflect.Value, raw jsontext.Value) bool {
	if v.Kind() == reflect.Struct || v.Kind() == reflect.Interface {
		return true
	}
	written, err := appendValue(nil, v)
	return err == nil && bytes.Equal(written, raw)
}

// marshal writes what source, a pointer to a struct that has a Rest, points to.
func marshal(source any) ([]byte, error) {
	v := reflect.ValueOf(source)
	if v.Kind() != reflect.Pointer || v.IsNil() {
		return nil, errors.New("marshal payload: it is nil")
	}
	written, err := appendObject(nil, v.Elem())
	if err != nil {
		return nil, fmt.Errorf("marshal payload: %w", err)
	}
	return written, nil
}

// unmarshal reads src into target, a pointer to a struct that has a Rest.
func unmarshal(src []byte, target any) error {
	if jsontext.Value(src).Kind() == 'n' {
		return nil // as encoding/json has it
	}
	if err := check(src); err != nil {
		return err
	}
	parseInto(src, target)
	return nil
}

// appendObject writes the members as they came, then the fields that have got a value since, then
// what was added to Extra.
func appendObject(dst []byte, v reflect.Value) (_ []byte, err error) {
	p := planOf(v.Type())
	rest := p.restOf(v)
	begin := func(name string) {
		if dst[len(dst)-1] != '{' {
			dst = append(dst, ',')
		}
		dst = append(appendText(dst, name), ':')
	}
	dst = append(dst, '{')
	came := make([]bool, len(p.fields))
	extra := maps.Clone(rest.Extra) // what is still to be written
	for _, name := range rest.order {
		if i, known := p.byName[name]; known {
			came[i] = true
			begin(name)
			dst, err = rest.appendMember(dst, name, v.FieldByIndex(p.fields[i].index))
		} else if raw, ok := extra[name]; ok {
			delete(extra, name)
			begin(name)
			dst, err = appendRaw(dst, raw)
		}
		if err != nil {
			return nil, fmt.Errorf("member %s: %w", strconv.Quote(name), err)
		}
	}
	for i, f := range p.fields {
		value := v.FieldByIndex(f.index)
		if came[i] || value.IsZero() {
			continue
		}
		begin(f.name)
		if dst, err = appendValue(dst, value); err != nil {
			return nil, fmt.Errorf("member %s: %w", strconv.Quote(f.name), err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(extra)) {
		if _, known := p.byName[name]; known {
			continue
		}
		begin(name)
		if dst, err = appendRaw(dst, extra[name]); err != nil {
			return nil, fmt.Errorf("member %s: %w", strconv.Quote(name), err)
		}
	}
	return append(dst, '}'), nil
}

// appendMember writes a member as it came, unless its field has been changed since.
func (r *Rest) appendMember(dst []byte, name string, v reflect.Value) ([]byte, error) {
	raw, ok := r.Odd[name]
	if !ok {
		raw, ok = r.forms[name]
	}
	if ok {
		fresh := reflect.New(v.Type()).Elem()
		readValue(raw, fresh)
		if reflect.DeepEqual(fresh.Interface(), v.Interface()) {
			return appendRaw(dst, raw)
		}
	}
	return appendValue(dst, v)
}

func appendValue(dst []byte, v reflect.Value) (_ []byte, err error) {
	switch value := v.Interface().(type) {
	case string:
		return appendText(dst, value), nil
	case ID:
		return appendID(dst, value), nil
	case Timestamp:
		return strconv.AppendInt(dst, int64(value), 10), nil
	case int64:
		return strconv.AppendInt(dst, value, 10), nil
	case Seconds:
		return appendRaw(dst, jsontext.Value(jsontext.Float(float64(value)).String()))
	case float64:
		return appendRaw(dst, jsontext.Value(jsontext.Float(value).String()))
	case jsontext.Value:
		if value == nil {
			return append(dst, "null"...), nil
		}
		return appendRaw(dst, value)
	case nil: // no Content
		return append(dst, "null"...), nil
	case Content:
		content := reflect.ValueOf(value)
		if content.IsNil() {
			return append(dst, "null"...), nil
		}
		return appendObject(dst, content.Elem())
	}
	if v.Kind() != reflect.Slice {
		return appendObject(dst, v)
	}
	dst = append(dst, '[')
	for i := range v.Len() {
		if i > 0 {
			dst = append(dst, ',')
		}
		if dst, err = appendValue(dst, v.Index(i)); err != nil {
			return nil, err
		}
	}
	return append(dst, ']'), nil
}

// appendRaw writes what is JSON already.
func appendRaw(dst []byte, raw jsontext.Value) ([]byte, error) {
	if !raw.IsValid() {
		return nil, errors.New("not a JSON value")
	}
	return append(dst, raw...), nil
}
