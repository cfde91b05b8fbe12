extension HeatmapConfiguration {
    /// Settings with which an engine that has yet to read its files can answer a question: groups by what is asked for,
    /// counts only what passes the filters, and is exact for the threshold.
    ///
    /// - Parameter query: its filters become the settings'; what is left is the question to the engine.
    public static func files(answering query: inout HeatmapQuery) throws(HeatmapError) -> HeatmapConfiguration {
        var configuration = files()
        for (attribute, value) in query.filters {
            if attribute == "name" {
                configuration.filter.name = value
            } else {
                configuration.filter.attributes[attribute] = value
            }
        }
        query.appliedFilters += query.filters.map { "\($0.attribute)=\($0.value)" }
        query.filters = []
        let view = try query.by.map { text throws(HeatmapError) in
            guard let view = HeatmapView(parsing: text) else {
                throw HeatmapQuery.invalid(
                    "by: \"\(text)\" is neither an attribute nor a pair such as tenant.id+device.group")
            }
            return view
        }
        if case .values(let attribute, _, _) = query.comparison {
            guard let by = view?.attributes, by.count == 1, by[0] != attribute else {
                throw HeatmapQuery.invalid(
                    "compare: two values of \(attribute) need one other attribute in --by, such as --by service.name")
            }
            configuration.views = [HeatmapView(by[0], attribute)]
        } else if let view, view.attributes.count > 1 {
            configuration.views = [view]
        } else if let view {
            configuration.groupBy = view.attributes
        }
        // Windows as short as a column, so that columns shorter than a minute are possible.
        if let window = query.window, window < .seconds(60) || window.components.seconds % 60 != 0 {
            configuration.window = window
        }
        configuration.thresholds = query.thresholds
        return configuration
    }
}
