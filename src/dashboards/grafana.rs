//! A board as the JSON that Grafana imports: the schema that every Grafana since 7.4 reads.

use serde_json::{Value, json};

use super::boards::{Board, Look, Panel, Query, Row};

/// The width of a board.
const COLUMNS: u64 = 24;
const ROW_HEIGHT: u64 = 1;
const STAT_HEIGHT: u64 = 4;
const GRAPH_HEIGHT: u64 = 8;

/// What `{@}` stands for in a query: the boards' variables.
const SELECTOR: &str = r#"job=~"$job",instance=~"$instance""#;

/// The whole board. `datasource` is the uid that is chosen at first.
pub(super) fn json(board: &Board, datasource: Option<&str>) -> Value {
    let mut panels = Vec::new();
    let mut top = 0;
    for row in board.rows {
        place(row, &mut panels, &mut top);
    }
    json!({
        "uid": board.uid,
        "title": format!("Forebay / {}", board.title),
        "description": board.description,
        "tags": ["forebay", "etcd"],
        "editable": false,
        "graphTooltip": 1,
        "refresh": "30s",
        "schemaVersion": 39,
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "links": [{
            "type": "dashboards", "tags": ["forebay"], "title": "Forebay", "asDropdown": true, "includeVars": true,
            "keepTime": true,
        }],
        "annotations": {"list": []},
        "templating": {"list": [
            data_source(datasource),
            variable("job", "label_values(process_start_time_seconds, job)"),
            variable("instance", r#"label_values(process_start_time_seconds{job=~"$job"}, instance)"#),
        ]},
        "panels": panels,
    })
}

fn data_source(chosen: Option<&str>) -> Value {
    let current = chosen.map_or_else(|| json!({}), |uid| json!({"text": uid, "value": uid}));
    json!({"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "current": current})
}

fn variable(name: &str, query: &str) -> Value {
    let label = format!("{}{}", name[..1].to_uppercase(), &name[1..]);
    json!({
        "name": name,
        "label": label,
        "type": "query",
        "datasource": {"type": "prometheus", "uid": "$datasource"},
        "query": query,
        "refresh": 2,
        "sort": 1,
        "multi": true,
        "includeAll": true,
        "allValue": ".+",
        "current": {"text": "All", "value": "$__all"},
    })
}

/// A heading and below it its panels, side by side as they fit.
fn place(row: &Row, panels: &mut Vec<Value>, top: &mut u64) {
    let at = |x: u64, y: u64, w: u64, h: u64| json!({"x": x, "y": y, "w": w, "h": h});
    panels.push(json!({
        "id": panels.len() + 1, "type": "row", "title": row.title, "collapsed": false, "panels": [],
        "gridPos": at(0, *top, COLUMNS, ROW_HEIGHT),
    }));
    *top += ROW_HEIGHT;
    let height = if row.panels.iter().all(|panel| panel.look == Look::Stat) { STAT_HEIGHT } else { GRAPH_HEIGHT };
    let across = match row.panels.len() as u64 {
        count if height == STAT_HEIGHT => count,
        2 | 4 => 2,
        count => count.min(3),
    };
    let width = COLUMNS / across;
    for (number, panel) in row.panels.iter().enumerate() {
        let (line, column) = (number as u64 / across, number as u64 % across);
        let place = at(column * width, *top + line * height, width, height);
        panels.push(panel_json(panel, panels.len() + 1, &place));
    }
    *top += (row.panels.len() as u64).div_ceil(across) * height;
}

fn panel_json(panel: &Panel, id: usize, place: &Value) -> Value {
    let targets = panel.queries.iter().zip('A'..).map(|(Query { expr, legend }, reference)| {
        json!({
            "refId": reference.to_string(),
            "datasource": {"type": "prometheus", "uid": "$datasource"},
            "expr": expr.replace("{@", &format!("{{{SELECTOR}")),
            "legendFormat": legend,
            "instant": false,
            "range": true,
        })
    });
    let mut defaults = json!({"unit": panel.unit, "min": 0});
    let (kind, options) = match panel.look {
        Look::Stat => ("stat", json!({"reduceOptions": {"calcs": ["lastNotNull"], "fields": ""}, "graphMode": "area"})),
        Look::Lines | Look::Stack => {
            let mode = if panel.look == Look::Stack { "normal" } else { "none" };
            let fill = if panel.look == Look::Stack { 30 } else { 8 };
            defaults["custom"] = json!({"stacking": {"mode": mode}, "fillOpacity": fill, "showPoints": "never"});
            let legend = json!({"displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull", "max"]});
            ("timeseries", json!({"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}))
        }
    };
    json!({
        "id": id,
        "type": kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": {"type": "prometheus", "uid": "$datasource"},
        "gridPos": place,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": targets.collect::<Vec<_>>(),
    })
}
