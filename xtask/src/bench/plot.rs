//! Accuracy against cost as a picture, with the Pareto front, as SVG and as PNG.

use super::labels::{Box2, place};
use super::pareto::front;
use anyhow::{Context, Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::FontStyle;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::path::Path;

const FONT: &[u8] = include_bytes!("../../assets/DejaVuSans-subset.ttf");
const SIZE: (u32, u32) = (1000, 640);
const INK: RGBColor = RGBColor(40, 44, 52);
const GRID: RGBColor = RGBColor(228, 230, 234);
const FRONT: RGBColor = RGBColor(202, 81, 0);
const POINT: RGBColor = RGBColor(38, 98, 170);
const LABEL: i32 = 15;

/// A row of the report as a point.
#[derive(Debug, Clone)]
pub struct Point {
    /// Name of the row.
    pub label: String,
    /// Bytes or milliseconds, above 0.
    pub cost: f64,
    /// Top-1 in per cent.
    pub accuracy: f64,
}

/// Title and axes of a picture.
#[derive(Debug, Clone, Copy)]
pub struct Labels<'a> {
    /// Above the picture.
    pub title: &'a str,
    /// Under the cost axis, which is logarithmic.
    pub cost: &'a str,
    /// Beside the accuracy axis.
    pub accuracy: &'a str,
}

/// Writes `<stem>.svg` and `<stem>.png` into a directory.
///
/// # Errors
/// If nothing can be drawn or the files cannot be written.
pub fn write(directory: &Path, stem: &str, labels: Labels<'_>, points: &[Point]) -> Result<()> {
    let font = plotters::style::register_font("sans-serif", FontStyle::Normal, FONT);
    font.map_err(|_| anyhow!("the embedded font cannot be read"))?;
    let mut svg = String::new();
    draw(SVGBackend::with_string(&mut svg, SIZE).into_drawing_area(), labels, points)?;
    cnn_core::model_file::write_atomically(&directory.join(format!("{stem}.svg")), svg.as_bytes())?;

    let mut pixels = vec![0u8; (SIZE.0 * SIZE.1 * 3) as usize];
    draw(BitMapBackend::with_buffer(&mut pixels, SIZE).into_drawing_area(), labels, points)?;
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, SIZE.0, SIZE.1);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header().context("PNG header")?;
    writer.write_image_data(&pixels).context("PNG data")?;
    writer.finish().context("PNG end")?;
    cnn_core::model_file::write_atomically(&directory.join(format!("{stem}.png")), &bytes)?;
    Ok(())
}

fn draw<B: DrawingBackend>(area: DrawingArea<B, Shift>, labels: Labels<'_>, points: &[Point]) -> Result<()>
where
    B::ErrorType: 'static,
{
    area.fill(&WHITE)?;
    let costs = (least(points.iter().map(|p| p.cost)) / 1.6, most(points.iter().map(|p| p.cost)) * 1.6);
    let (low, high) = (least(points.iter().map(|p| p.accuracy)), most(points.iter().map(|p| p.accuracy)));
    let margin = ((high - low) * 0.15).max(0.1);
    let accuracies = (low - margin)..(high + margin);
    let text = |size: i32| ("sans-serif", size).into_font().color(&INK);
    let mut chart = ChartBuilder::on(&area)
        .caption(labels.title, text(21))
        .margin(16)
        .x_label_area_size(56)
        .y_label_area_size(72)
        .build_cartesian_2d((costs.0..costs.1).log_scale(), accuracies)?;
    chart
        .configure_mesh()
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .axis_style(INK)
        .label_style(text(15))
        .axis_desc_style(text(16))
        .x_desc(labels.cost)
        .y_desc(labels.accuracy)
        .x_labels(20)
        .x_label_formatter(&|v| if leading(*v) { short(*v) } else { String::new() })
        .y_label_formatter(&|v| format!("{v:.2}"))
        .draw()?;

    let pairs: Vec<(f64, f64)> = points.iter().map(|p| (p.cost, p.accuracy)).collect();
    let on = front(&pairs);
    chart.draw_series(LineSeries::new(stairs(&on, &pairs), FRONT.mix(0.7).stroke_width(2)))?;
    let colour = |i: usize| if on.contains(&i) { FRONT } else { POINT };
    chart.draw_series(
        pairs.iter().enumerate().map(|(i, &p)| Circle::new(p, 5, ShapeStyle::from(colour(i)).filled())),
    )?;

    // labels are placed in pixels, where nothing else is
    let at: Vec<(i32, i32)> = pairs.iter().map(|p| chart.backend_coord(p)).collect();
    let sizes: Vec<(i32, i32)> = points
        .iter()
        .map(|p| area.estimate_text_size(&p.label, &text(LABEL)).map(|(w, h)| (w as i32, h as i32)))
        .collect::<Result<_, _>>()?;
    let (x, y) = chart.plotting_area().get_pixel_range();
    let frame = Box2 { left: x.start, top: y.start, right: x.end, bottom: y.end };
    let corners: Vec<(i32, i32)> = stairs(&on, &pairs).iter().map(|p| chart.backend_coord(p)).collect();
    for (i, label) in place(&at, &sizes, &corners, frame).into_iter().enumerate() {
        if let Some(from) = label.leader {
            area.draw(&PathElement::new(vec![from, at[i]], colour(i).mix(0.6)))?;
        }
        let style = ("sans-serif", LABEL).into_font().color(&colour(i)).pos(Pos::new(HPos::Left, VPos::Top));
        area.draw_text(&points[i].label, &style, (label.place.left, label.place.top))?;
    }
    area.present()?;
    Ok(())
}

/// The front as a staircase: the best accuracy that can be had up to a cost.
fn stairs(on: &[usize], points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mut line: Vec<(f64, f64)> = Vec::new();
    for &i in on {
        if let Some(&(_, accuracy)) = line.last() {
            line.push((points[i].0, accuracy));
        }
        line.push(points[i]);
    }
    line
}

fn least(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(f64::INFINITY, f64::min)
}

fn most(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(f64::NEG_INFINITY, f64::max)
}

/// True for 1, 2 and 5 times a power of ten: on a log axis the labels between them would overlap.
fn leading(v: f64) -> bool {
    let mantissa = v / 10f64.powf(v.log10().floor());
    [1.0, 2.0, 5.0, 10.0].iter().any(|m| (mantissa - m).abs() < 1e-6)
}

/// A number on the cost axis: `20 k`, `1.5 M`, `0.05`.
fn short(value: f64) -> String {
    let plain = |v: f64| format!("{}", (v * 1000.0).round() / 1000.0);
    match value {
        v if v >= 1e6 => format!("{} M", plain(v / 1e6)),
        v if v >= 1e3 => format!("{} k", plain(v / 1e3)),
        v => plain(v),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axis_numbers_are_short() {
        assert_eq!(short(1_724_320.0), "1.724 M");
        assert_eq!(short(20_000.0), "20 k");
        assert_eq!(short(0.05), "0.05");
    }

    #[test]
    fn the_front_is_a_staircase() {
        let points = [(1.0, 90.0), (3.0, 95.0)];
        assert_eq!(stairs(&[0, 1], &points), [(1.0, 90.0), (3.0, 90.0), (3.0, 95.0)]);
    }

    #[test]
    fn both_pictures_are_written_with_all_labels() {
        let directory = tempfile::tempdir().unwrap();
        let point = |label: &str, cost, accuracy| Point { label: label.into(), cost, accuracy };
        let points = [point("baseline", 1.7e6, 98.5), point("small", 2e4, 98.0), point("poor", 5e4, 97.0)];
        let labels = Labels { title: "t", cost: "bytes", accuracy: "top-1 (%)" };
        write(directory.path(), "a", labels, &points).unwrap();
        let svg = std::fs::read_to_string(directory.path().join("a.svg")).unwrap();
        assert!(points.iter().all(|p| svg.contains(&p.label)));
        let file = std::fs::read(directory.path().join("a.png")).unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(file)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut pixels).unwrap();
        let ink = pixels.chunks(3).filter(|p| *p == [FRONT.0, FRONT.1, FRONT.2]).count();
        assert!(ink > 50, "two filled circles of the front's colour, got {ink} pixels");
    }

    #[test]
    fn a_single_point_can_be_drawn() {
        let directory = tempfile::tempdir().unwrap();
        let points = [Point { label: "baseline".into(), cost: 1.0, accuracy: 98.0 }];
        write(directory.path(), "a", Labels { title: "", cost: "", accuracy: "" }, &points).unwrap();
    }
}
